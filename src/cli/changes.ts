/** `asof changes`: what was written to a volume since one of its snapshots. */
import type { Command } from 'commander';
import type { ChangedExtents } from '../volumes.js';
import { Client } from './client.js';
import { line, printable } from './columns.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';
import { type StateFlags, withState } from './state.js';

/** Characters of output that are written at once. */
const BATCH = 1 << 16;

export function define(command: Command): void {
  withState(command)
    .argument('<VOLUME>', 'the volume')
    .requiredOption('--since <ID>', 'a snapshot of it, deleted or not; or "added", when it was')
    .addHelpText(
      'after',
      `
A line an extent, then how they were found, whether they are exact, and why. Where they are not exact they hold more than
changed, never less; where nothing is known, everything counts as changed.
${examples(['asof changes mail --since 3f2c91d0', 'asof changes mail --since added --json'])}`,
    )
    .action(async (volume: string, flags: StateFlags & { readonly since: string }) => {
      const path = `/volumes/${encodeURIComponent(volume)}/changes?since=${encodeURIComponent(flags.since)}`;
      const changes = await new Client(flags).ask<ChangedExtents>('GET', path);
      if (flags.json) {
        await writeJson(changes);
        return;
      }
      let text = line(['START', 'LENGTH'], ['>', '>'], [14, 14]);
      for (const { start, length } of changes.extents) {
        text += line([String(start), String(length)], ['>', '>'], [14, 14]);
        if (text.length < BATCH) continue;
        await write(text);
        text = '';
      }
      const { bytes, method, exact, why } = changes;
      await write(
        `${text}${humanSize(bytes)} changed; ${method}, ${exact ? 'exact' : 'not exact'}: ${printable(why)}\n`,
      );
    });
}
