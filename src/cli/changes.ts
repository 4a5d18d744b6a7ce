/** `asof changes`: what was written to a volume since one of its snapshots, or since what a consumer has. */
import type { Command } from 'commander';
import { AsofError } from '../errors.js';
import { shellQuote } from '../shell.js';
import type { ChangedEnd, Extent } from '../volumes.js';
import { Client } from './client.js';
import { line, printable } from './columns.js';
import { write } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';
import { type StateFlags, withState } from './state.js';

/** Characters of output that are written at once. */
const BATCH = 1 << 16;

interface Flags extends StateFlags {
  readonly since?: string;
  readonly consumer?: string;
  readonly until?: string;
}

export function define(command: Command): void {
  withState(command)
    .argument('<VOLUME>', 'the volume')
    .option('--since <ID>', 'a snapshot of it, deleted or not; or "added", when it was')
    .option('--consumer <NAME>', 'since the snapshot that this consumer has (asof volume mark), instead')
    .option('--until <ID>', 'up to this snapshot; up to now unless given')
    .addHelpText(
      'after',
      `
A line an extent, then how they were found, whether they are exact, and why. Where they are not exact they hold more than
changed, never less; where nothing is known, everything counts as changed.

A backup takes a snapshot, copies what changed between what it has and that snapshot, then says that it has it:
  asof snapshot create mail
  asof changes mail --consumer nightly --until 3f2c91d0
  asof volume mark mail nightly 3f2c91d0
${examples(['asof changes mail --since 3f2c91d0', 'asof changes mail --since added --json', 'asof changes mail --consumer nightly'])}`,
    )
    .action(async (volume: string, flags: Flags) => {
      const { since, consumer, until } = flags;
      if ((since === undefined) === (consumer === undefined)) {
        throw new AsofError(
          'USAGE',
          since === undefined ? 'since when?' : 'since a snapshot or for a consumer, not both',
          `asof changes ${shellQuote(volume)} --since ID, or --consumer NAME`,
        );
      }
      const query = new URLSearchParams(
        Object.entries({ since, consumer, until }).filter(
          (pair): pair is [string, string] => pair[1] !== undefined,
        ),
      );
      const lines = new Client(flags).lines(`/volumes/${encodeURIComponent(volume)}/changes?${query}`);
      await (flags.json ? asTheyCome(lines) : forPeople(lines));
    });
}

type Lines = AsyncGenerator<string, void, undefined>;

/** The daemon's document as it is: an extent a line. */
async function asTheyCome(lines: Lines): Promise<void> {
  let text = '';
  for await (const one of lines) {
    text += `${one}\n`;
    if (text.length < BATCH) continue;
    await write(text);
    text = '';
  }
  await write(text);
}

/** docs/api.md: the first line and the last one hold the rest of the document. */
async function forPeople(lines: Lines): Promise<void> {
  let text = line(['START', 'LENGTH'], ['>', '>'], [14, 14]);
  let end: ChangedEnd | undefined;
  for await (const one of lines) {
    if (one.startsWith('{"start"')) {
      const { start, length } = JSON.parse(one.replace(/,$/, '')) as Extent;
      text += line([String(start), String(length)], ['>', '>'], [14, 14]);
    } else if (one.startsWith('],')) end = JSON.parse(`{${one.slice(2)}`) as ChangedEnd;
    if (text.length < BATCH) continue;
    await write(text);
    text = '';
  }
  if (!end) throw new Error('the daemon\u2019s answer has no end');
  const { bytes, method, exact, why } = end;
  const how = method === 'none' ? 'not tracked' : `${method}, ${exact ? 'exact' : 'not exact'}`;
  await write(`${text}${humanSize(bytes)} changed; ${how}: ${printable(why)}\n`);
}
