/** `asof activity`: how warm a volume is, and when its store will be full. */
import { setTimeout } from 'node:timers/promises';
import type { Command } from 'commander';
import type { VolumeActivity } from '../volumes.js';
import { Client } from './client.js';
import { line, printable } from './columns.js';
import { humanSeconds } from './duration.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { bothSizes, humanSize } from './size.js';
import { type StateFlags, withState } from './state.js';

/** Milliseconds between two lines. */
const PACE = 1000;

interface Answer extends VolumeActivity {
  readonly volume: string;
}

export function define(command: Command): void {
  withState(command)
    .argument('<VOLUME>', 'the volume')
    .option('-f, --follow', 'a line each second, until Ctrl-C; with --json an object a line')
    .addHelpText(
      'after',
      `
Counters are since the daemon started. First writes are those of a chunk since the newest snapshot: each preserves what was
there. The forecast holds if the store goes on filling as in the last minutes.
${examples(['asof activity mail', 'asof activity mail --follow'])}`,
    )
    .action(async (volume: string, flags: StateFlags & { readonly follow?: boolean }) => {
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
