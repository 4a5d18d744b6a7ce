/** `asof history`: the points of a history, and how they stand on each other. */
import type { Command } from 'commander';
import { openHistory, type PointState, stateOfPoint } from '../histories.js';
import { columns, printable } from './columns.js';
import { type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';

export function define(command: Command): void {
  withJson(command)
    .argument('<DIR>', 'the folder of the history', named('DIR'))
    .argument('[VOLUME]', 'of this volume only: its name or id')
    .addHelpText(
      'after',
      `
Oldest first. VERIFIED is when the stored bytes were last found to be those that were read: at the backup itself, or by
asof verify, or what was found wrong.
${examples(['asof history /backup', 'asof history /backup data --json'])}`,
    )
    .action(async (folder: string, volume: string | undefined, flags: JsonFlag) => {
      const { history } = openHistory(folder);
      try {
        const points = volume === undefined ? history.points : history.of(volume);
        const states = points.map(point => stateOfPoint(history, point));
        if (flags.json) await writeJson({ path: history.path, points: states, troubles: history.troubles });
        else {
          await write(table(states));
          for (const trouble of history.troubles) await write(`cannot be believed: ${printable(trouble)}\n`);
        }
      } finally {
        history.close();
      }
    });
}

function table(states: readonly PointState[]): string {
  const stems = new Map(states.map(({ id, stem }) => [id, stem]));
  const rows = states.map(({ stem, id, manifest, verified }) => [
    id.slice(0, 8),
    manifest.volume.name,
    manifest.time.slice(0, 19).replace('T', ' '),
    manifest.kind,
    manifest.base
      ? stems.has(manifest.base.id)
        ? manifest.base.id.slice(0, 8)
        : `${manifest.base.id} (missing)`
      : '-',
    manifest.method,
    humanSize(manifest.image.bytes),
    manifest.consistency,
    said(manifest.proof.time, verified),
    [manifest.label, manifest.bad.runs.length > 0 ? `${manifest.bad.runs.length} bad runs` : '', stem]
      .filter(Boolean)
      .join(', '),
  ]);
  return columns(
    ['ID', 'VOLUME', 'TIME', 'KIND', 'BASE', 'METHOD', 'STORED', 'CONSISTENCY', 'VERIFIED', 'NAME'],
    ['<', '<', '<', '<', '<', '<', '>', '<', '<', '<'],
    rows,
  );
}

function said(proof: string, verified: PointState['verified']): string {
  const day = (time: string) => time.slice(0, 16).replace('T', ' ');
  if (!verified) return day(proof);
  return verified.sound ? day(verified.time) : `DEFECTS ${day(verified.time)}`;
}
