/** `asof history`: the points of a history, and how they stand on each other. */
import type { Command } from 'commander';
import {
  type Failure,
  type Found,
  folderOf,
  type ListedPoint,
  Listing,
  readFailures,
  stateOfPoint,
} from '../listings.js';
import { columns, printable } from './columns.js';
import { type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';

/** The newest; --json has all that are kept. */
const FAILURES_SHOWN = 5;

export function define(command: Command): void {
  withJson(command)
    .argument('<DIR>', 'the folder of the history', named('DIR'))
    .argument('[VOLUME]', 'of this volume only: its name or id')
    .addHelpText(
      'after',
      `
Oldest first. VERIFIED is when the stored bytes were last found to be those that were read: at the backup itself, or by
asof verify, or what was found wrong. Below stand the last backups that failed, or were interrupted, and why.
${examples(['asof history /backup', 'asof history /backup data --json'])}`,
    )
    .action(async (folder: string, volume: string | undefined, flags: JsonFlag) => {
      const history = new Listing(folderOf(folder));
      const points = volume === undefined ? history.points : history.of(volume);
      const { failures: all, trouble: lost } = readFailures(history.path);
      const failures = volume === undefined ? all : all.filter(one => isOf(one, volume, points));
      const troubles = lost === '' ? history.troubles : [...history.troubles, lost];
      if (flags.json) {
        const states = points.map(point => stateOfPoint(history, point));
        await writeJson({ path: history.path, points: states, failures, troubles });
        return;
      }
      await write(table(history, points));
      await write(failures.slice(-FAILURES_SHOWN).map(failureLine).join(''));
      for (const trouble of troubles) await write(`cannot be believed: ${printable(trouble)}\n`);
    });
}

/** Of runs that did not learn the volume's id the name is all that is known. */
function isOf({ volume: { id, name } }: Failure, volume: string, points: readonly ListedPoint[]): boolean {
  return id === volume || name === volume || points.some(({ summary }) => summary.volume === id);
}

function failureLine({ time, volume, outcome, why }: Failure): string {
  return `${printable(`${outcome} ${time.slice(0, 19).replace('T', ' ')} ${volume.name}: ${why}`)}\n`;
}

function table(history: Listing, points: readonly ListedPoint[]): string {
  const ids = new Set(history.points.map(({ summary }) => summary.id));
  const baseOf = (id: string) => (id === '' ? '-' : ids.has(id) ? id.slice(0, 8) : `${id} (missing)`);
  const rows = points.map(point => {
    const { id, volumeName, time, kind, base, method, bytes, consistency, proved, label, bad } =
      point.summary;
    return [
      id.slice(0, 8),
      volumeName,
      time.slice(0, 19).replace('T', ' '),
      kind,
      baseOf(base),
      method,
      humanSize(bytes),
      consistency,
      said(proved, history.found(point)),
      `${label && `${label}, `}${bad > 0 ? `${bad} bad runs, ` : ''}${point.stem}`,
    ];
  });
  return columns(
    ['ID', 'VOLUME', 'TIME', 'KIND', 'BASE', 'METHOD', 'STORED', 'CONSISTENCY', 'VERIFIED', 'NAME'],
    ['<', '<', '<', '<', '<', '<', '>', '<', '<', '<'],
    rows,
  );
}

function said(proof: string, found: Found | null): string {
  const day = (time: string) => time.slice(0, 16).replace('T', ' ');
  if (!found) return day(proof);
  return found.sound ? day(found.time) : `DEFECTS ${day(found.time)}`;
}
