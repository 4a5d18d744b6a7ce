/**
 * A backup of volumes of the daemon: it takes one moment of them that is this run's own (a lease), which is read through the
 * mount and goes when the run is over, however that ends. What changed is asked of the tracker, relative to the snapshot of
 * the point below: the snapshot is the moment of the image and of the tracking at once, and what is written after it belongs
 * to the next. While it is read it is drained: drain.ts.
 */
import { statSync } from 'node:fs';
import { AsofError } from '../errors.js';
import { type BackupOptions, type BackupResult, backup, noteFailure } from '../histories.js';
import type { Client } from './client.js';
import { Drain } from './drain.js';
import { type HeldLease, type LeaseSnapshot, readableOf, withLease } from './lease.js';
import type { StateFlags } from './state.js';

export { backup, noteFailure };

export interface VolumesBackedUp {
  /** In the order of the snapshots. */
  readonly results: readonly BackupResult[];
  /** Commands after the backup that failed. */
  readonly marks: readonly string[];
  readonly warnings: readonly string[];
}

interface Target {
  readonly to: string;
  readonly allSectors?: boolean;
  readonly excludeSwap?: boolean;
}

/** Whether SOURCE names a volume, not a path; a folder is no source. */
export function isVolume(source: string): boolean {
  if (source.includes('/')) return false;
  return statSync(source, { throwIfNoEntry: false })?.isDirectory() ?? true;
}

/** Names of volumes, and of groups behind an @: one moment. Throws what the daemon throws, and what a backup throws. */
export async function backupVolumes(
  names: readonly string[],
  flags: StateFlags & Target,
  options: BackupOptions,
): Promise<VolumesBackedUp> {
  const { result, marks } = await withLease(names, flags, {}, (client, lease, gone) =>
    backupLease(client, lease, flags, { ...options, signal: both(options.signal, gone) }),
  );
  return { ...result, marks };
}

/** Backs up the snapshots of a lease, one after the other; whoever has the lease ends it. */
export async function backupLease(
  client: Client,
  { lease, snapshots }: HeldLease,
  target: Target,
  options: BackupOptions,
): Promise<Omit<VolumesBackedUp, 'marks'>> {
  const results: BackupResult[] = [];
  const warnings: string[] = [];
  for (const snapshot of snapshots) {
    const drain = snapshot.drains
      ? new Drain(client, {
          lease,
          snapshot: snapshot.id,
          size: snapshot.size,
          chunkSize: snapshot.chunkSize,
        })
      : undefined;
    results.push(await backupSnapshot(client, snapshot, target, { ...options, ...drain?.hooks }));
    if (drain?.trouble !== undefined) {
      warnings.push(`${snapshot.volume} was copied without giving back what was stored: ${drain.trouble}`);
    }
  }
  return { results, warnings };
}

async function backupSnapshot(
  client: Client,
  snapshot: LeaseSnapshot,
  { to, allSectors, excludeSwap }: Target,
  options: BackupOptions,
): Promise<BackupResult> {
  const { consistency } = snapshot;
  if (consistency === 'none') {
    throw new AsofError(
      'BACKUP_FAILED',
      `the volume ${snapshot.volume} has the provider none, which preserves nothing: there is no moment of it to back up`,
      'providers in the configuration names another one; or back up the live device by its path, as what it is',
    );
  }
  const { volume, path, changed, tracker } = await readableOf(client, snapshot);
  return backup(path, to, options, {
    format: 'raw',
    sectorSize: volume.sectorSize === 4096 ? 4096 : 512,
    allSectors,
    excludeSwap,
    volume: { id: volume.id, name: volume.name, source: volume.origin },
    time: new Date(snapshot.at),
    consistency,
    snapshot: snapshot.id,
    allocation: 'holes',
    // Of a broken one no read can be believed, nor that a sector of it is bad.
    changed,
    tracker,
  });
}

function both(one: AbortSignal | undefined, other: AbortSignal): AbortSignal {
  return one ? AbortSignal.any([one, other]) : other;
}
