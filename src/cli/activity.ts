/** `asof activity`: how warm a volume is, and when its store will be full; and whose the sectors are that changed. */
import { setTimeout } from 'node:timers/promises';
import type { Command } from 'commander';
import { AsofError } from '../errors.js';
import type { VolumeActivity } from '../volumes.js';
import {
  isPoint,
  type OwnerFlags,
  parseTop,
  pointActivity,
  TOP,
  TOP_HELP,
  volumeActivity,
} from './activity-files.js';
import { Client } from './client.js';
import { line, printable } from './columns.js';
import { humanSeconds } from './duration.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { parsePartition } from './restore.js';
import { bothSizes, humanSize } from './size.js';
import { type StateFlags, withState } from './state.js';

/** Milliseconds between two lines. */
const PACE = 1000;

interface Answer extends VolumeActivity {
  readonly volume: string;
}

type Flags = OwnerFlags &
  StateFlags & { readonly follow?: boolean; readonly files?: boolean; readonly since?: string };

export function define(command: Command): void {
  withState(command)
    .argument('<VOLUME>', 'the volume; with --files, a point of a history as well')
    .option('-f, --follow', 'a line each second, until Ctrl-C; with --json an object a line')
    .option('--files', 'the files to which the sectors belong that changed')
    .option('--since <ID>', 'with --files, since this snapshot of the volume; or "added", when it was')
    .option('--top <N>', `with --files, ${TOP_HELP}`, parseTop, TOP)
    .option('--partition <N>', 'with --files, of this partition alone (GPT or MBR)', parsePartition)
    .option('--no-replay', 'with --files, do not replay journals')
    .addHelpText(
      'after',
      `
Counters are since the daemon started. First writes are those of a chunk since the newest snapshot: each preserves what was
there. The forecast holds if the store goes on filling as in the last minutes.

With --files, what changed in a volume since its newest snapshot (or --since) is told by file, as it is now; of a point of a
history, what makes it unlike the point that it stands on. Each file system is mounted read-only, which only root may do. Journal,
metadata and free space stand for themselves.
${examples(['asof activity mail', 'asof activity mail --follow', 'asof activity mail --files --top 50', 'asof activity /backup/mail@3f2c91d0 --files'])}`,
    )
    .action(async (volume: string, flags: Flags) => {
      if (flags.files) {
        if (flags.follow) throw new AsofError('USAGE', '--files and --follow do not go together');
        if (!isPoint(volume)) return await volumeActivity(volume, flags);
        if (flags.since !== undefined) {
          throw new AsofError('USAGE', '--since is for a volume', 'asof diff LEFT RIGHT --by-file');
        }
        return await pointActivity(volume, flags);
      }
      const client = new Client(flags);
      const ask = () => client.ask<Answer>('GET', `/volumes/${encodeURIComponent(volume)}/activity`);
      if (flags.follow) {
        await follow(ask, flags.json ?? false);
        return;
      }
      const answer = await ask();
      if (flags.json) await writeJson(answer);
      else await write(forPeople(answer));
    });
}

async function follow(ask: () => Promise<Answer>, json: boolean): Promise<never> {
  if (!json) await write(row('WRITES', 'BYTES', 'FIRST WRITES', 'STORE', 'FULL IN'));
  for (let before: Answer | undefined; ; ) {
    const now = await ask();
    if (json) await write(`${JSON.stringify(now)}\n`);
    else if (before) {
      const since = (name: 'writes' | 'bytes' | 'firstWrites') => now.counters[name] - before!.counters[name];
      const full = now.forecast.fullInSeconds;
      await write(
        row(
          String(since('writes')),
          humanSize(since('bytes')),
          String(since('firstWrites')),
          fill(now),
          full === null ? '-' : humanSeconds(full),
        ),
      );
    }
    before = now;
    await setTimeout(PACE);
  }
}

function row(...cells: string[]): string {
  return line(cells, ['>', '>', '>', '>', '>'], [8, 10, 12, 24, 12]);
}

function fill({ counters, forecast }: Answer): string {
  return `${humanSize(counters.storeUsed)} of ${humanSize(counters.storeUsed + forecast.left)}`;
}

function forPeople(answer: Answer): string {
  const { counters, rates, forecast } = answer;
  const full =
    forecast.fullInSeconds === null ? `not in sight: ${forecast.why}` : humanSeconds(forecast.fullInSeconds);
  const lines: [string, string][] = [
    ['volume', answer.volume],
    ['writes', `${counters.writes} (${rates.writes.toFixed(1)}/s)`],
    ['bytes', `${bothSizes(counters.bytes)} (${humanSize(Math.round(rates.bytes))}/s)`],
    ['first writes', `${counters.firstWrites} (${rates.firstWrites.toFixed(1)}/s)`],
    ['flushes', String(counters.flushes)],
    ['preserved', `${counters.preserved} chunks`],
    ['store', fill(answer)],
    ['full in', full],
  ];
  return lines.map(([name, value]) => `${name.padEnd(13)}${printable(value)}\n`).join('');
}
