/**
 * The process of a backup that the daemon runs by itself; the protocol is in ../scheduled-backups.ts. It reads a moment that the
 * daemon has taken, and then takes out of the history what no rule keeps.
 */
import { createInterface } from 'node:readline';
import { AsofError, type ErrorCode } from '../errors.js';
import { type BackupOptions, consolidate, waitForHistory } from '../histories.js';
import type { BackupOrder, Order, Said } from '../scheduled-backups.js';
import { backupLease, noteFailure } from './backup-volume.js';
import { Client } from './client.js';
import { parseCompression } from './compression.js';

/** Milliseconds for which somebody else who writes to the history is waited for: one that a killed daemon left, for instance. */
const BUSY_MS = 120_000;

const stop = new AbortController();
// A signal to all of the daemon's processes is the daemon's business: it closes our input when it ends, and knows why.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
process.stdout.on('error', () => stop.abort());

function say(said: Said): void {
  process.stdout.write(`${JSON.stringify(said)}\n`);
}

async function work(order: Order): Promise<Said> {
  if ('failed' in order) {
    const { code, message, hint } = order.failed;
    noteFailure(
      order.to,
      order.volumes.join(', '),
      new Date(),
      new AsofError(code as ErrorCode, message, hint),
    );
    return { said: 'done', points: [], warnings: [] };
  }
  const { state, lease, backup } = order;
  const options: BackupOptions = {
    kind: backup.kind,
    base: undefined,
    method: backup.method ?? 'auto',
    level: parseCompression(backup.compress ?? 'zstd'),
    ignoreReadErrors: backup.ignoreReadErrors ?? false,
    rate: backup.rate ?? 0,
    label: backup.label ?? '',
    signal: stop.signal,
    urgent: undefined,
    stored: undefined,
  };
  const began = new Date();
  try {
    await waitForHistory(backup.to, BUSY_MS, stop.signal);
    const { to, allSectors = false, excludeSwap = false } = backup;
    const target = { to, allSectors, excludeSwap };
    const { results, warnings } = await backupLease(new Client({ state }), lease, target, options);
    say({ said: 'copied' });
    const points = results.map(({ point: { manifest, stem } }, i) => ({
      volume: lease.snapshots[i]!.volume,
      id: manifest.id,
      stem,
      time: manifest.time,
    }));
    const thinned = await thin(order);
    return { said: 'done', points, warnings: [...warnings, ...thinned] };
  } catch (error) {
    noteFailure(backup.to, lease.snapshots.map(({ volume }) => volume).join(', '), began, error);
    const known = error instanceof AsofError;
    const message = error instanceof Error ? error.message : String(error);
    return { said: 'failed', code: known ? error.code : 'BUG', message, hint: known ? error.hint : '' };
  }
}

/** What could not leave the history; the points are there all the same. */
async function thin({ lease, backup }: BackupOrder): Promise<string[]> {
  if (!backup.keep || stop.signal.aborted) return [];
  const volumes = lease.snapshots.map(({ volumeId }) => volumeId);
  try {
    const { stays } = await consolidate(backup.to, { keep: backup.keep, volumes });
    return stays.map(({ point, why }) => `${point.stem} stays: ${why}`);
  } catch (error) {
    return [`no point has left the history: ${error instanceof Error ? error.message : String(error)}`];
  }
}

const lines = createInterface({ input: process.stdin });
lines.once('line', line => {
  void work(JSON.parse(line) as Order).then(said => {
    say(said);
    lines.close();
    process.stdin.destroy();
  });
});
lines.once('close', () => stop.abort());
