/** `asof diff`: two points side by side. `live` is a volume as it is now. */
import type { Command } from 'commander';
import type { ComparedFile, NamedPoint, FileView as View } from '../diff.js';
import { AsofError, EXIT } from '../errors.js';
import type { VolumeInfo } from '../volumes.js';
import { parseTop, show, stopping, TOP, TOP_HELP } from './activity-files.js';
import { Client } from './client.js';
import { line, printable } from './columns.js';
import { named } from './options.js';
import { JsonArray, write } from './output.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { POINT_HELP, type PointFlags, REPLAY_HELP, withNamedPoint } from './restore.js';
import { humanSize } from './size.js';

interface Flags extends PointFlags {
  readonly files?: boolean;
  readonly all?: boolean;
  readonly bytes?: boolean;
  readonly replay: boolean;
  readonly byFile?: boolean;
  readonly top: number;
  readonly state?: string;
}

/** As people read them: of sectors the sides are a and b. */
const SAID = {
  different: 'differs',
  'only-a': 'only left',
  'only-b': 'only right',
  differs: 'differs',
  'only-left': 'only left',
  'only-right': 'only right',
  equal: 'equal',
  unreadable: 'unreadable',
  'left-out': 'left out',
} as const;

export function define(command: Command): void {
  withNamedPoint(command)
    .argument('<LEFT>', POINT_HELP, named('LEFT'))
    .argument(
      '<RIGHT>',
      'another, a file or device; or live, what the volume of LEFT holds now',
      named('RIGHT'),
    )
    .option('--files', 'the files of their file systems, instead of sectors')
    .option('--all', 'with --files, what is equal as well')
    .option(
      '--bytes',
      'with --files, read every file, also where inode, size and times say that it is the same',
    )
    .option('--by-file', 'the sectors that differ, by the files of RIGHT to which they belong')
    .option('--top <N>', `with --by-file, ${TOP_HELP}`, parseTop, TOP)
    .option('--no-replay', REPLAY_HELP)
    .option('--state <DIR>', 'the state directory of the daemon (ASOF_STATE unless given)')
    .addHelpText(
      'after',
      `
A line a run of sectors, or a file: differs, only left, only right, or unreadable (the exit status is then 3). Points that
differ are no failure. Two points of histories are compared by their hash trees: only what differs is read. Of files, type,
size, content, mode, owner, extended attributes (ACLs among them) and time are compared. What a point has left out of its source (unused
space, swap) is no difference: the last line counts it, with --json it is of kind left-out.
${examples(['asof diff /backup/vm@2026-11-20 /backup/vm', 'asof diff /backup/data live --files', 'asof diff /backup/vm restored.img --partition 2 --files --json'])}`,
    )
    .action(async (left: string, right: string, flags: Flags) => {
      const { openPoint } = await import('../diff.js');
      const one = openPoint(left, flags);
      let release = async () => {};
      try {
        let path = right;
        let how: PointFlags = flags;
        if (right === 'live') ({ path, how, release } = await live(one, flags));
        const other = openPoint(path, how);
        try {
          if (flags.byFile) await byFile(one, other, [path, how], flags);
          else await (flags.files ? files([one, flags], [other, how], flags) : sectors(one, other, flags));
        } finally {
          other.close();
        }
      } finally {
        one.close();
        await release();
      }
    });
}

/** The file or device itself; of a volume of the daemon a snapshot, deleted again afterwards, so that it is one moment. */
async function live({ volume }: NamedPoint, flags: Flags) {
  if (!volume)
    throw new AsofError('USAGE', 'live is for points of a history', 'name the file or device instead');
  if (volume.id.startsWith('path:')) return { path: volume.source, how: {}, release: async () => {} };
  const client = new Client(flags);
  const { mount } = await client.ask<{ mount: string | null }>('GET', '/daemon');
  const known = await client.ask<VolumeInfo>('GET', `/volumes/${encodeURIComponent(volume.name)}`);
  if (mount === null || known.id !== volume.id) {
    const what =
      mount === null ? 'the daemon shows no disks' : `the daemon's ${volume.name} is another volume`;
    throw new AsofError('VOLUME_UNKNOWN', what, 'asof volume list');
  }
  const [snapshot] = await client.ask<{ id: string; moment: string }[]>('POST', '/snapshots', {
    volumes: [known.name],
  });
  return {
    path: `${mount}/volumes/${known.name}/${snapshot!.moment}/disk`,
    how: { format: 'raw' },
    release: async () => {
      await client.ask('DELETE', `/snapshots/${snapshot!.id}`);
    },
  };
}

async function sectors(left: NamedPoint, right: NamedPoint, flags: Flags): Promise<void> {
  const { compareSectors } = await import('../diff.js');
  const found = await compareSectors(left, right, flags.partition);
  const width = Math.max(6, String(Math.max(left.source.size, right.source.size)).length);
  const row = (...cells: string[]) => write(line(cells, ['>', '>', '<'], [width, width, 0]));
  const array = flags.json ? new JsonArray() : undefined;
  const progress = new Progress('comparing', found.both);
  let unlike = 0;
  let leftOut = 0;
  try {
    if (!array) await row('START', 'LENGTH', 'KIND');
    for await (const { kind, offset, length, why } of found.differences) {
      if (kind === 'unreadable') process.exitCode = EXIT.defects;
      if (kind === 'different' || kind === 'unreadable') unlike += length;
      if (kind === 'left-out') leftOut += length;
      // Of a file system's unused space there may be a run a file that was deleted.
      if (kind === 'left-out' && !array) continue;
      progress.end();
      const more = why === undefined ? {} : { why };
      const side = kind === 'only-a' ? 'only-left' : kind === 'only-b' ? 'only-right' : kind;
      if (array) await array.add({ start: offset, length, kind: side, ...more });
      else
        await row(
          String(offset),
          String(length),
          `${SAID[kind]}${why === undefined ? '' : `: ${printable(why)}`}`,
        );
      progress.at(offset + length);
    }
    progress.end();
    const how = found.method === 'digests' ? 'by digests' : 'by bytes';
    if (array) await array.end();
    else
      await write(
        `${humanSize(found.both - unlike - leftOut)} of ${humanSize(found.both)} are equal, compared ${how}${leftOut > 0 ? `; ${humanSize(leftOut)} differ that a point has left out (unused space, swap)` : ''}\n`,
      );
  } finally {
    progress.end();
    found.close();
  }
}

async function byFile(
  left: NamedPoint,
  right: NamedPoint,
  [path, how]: readonly [path: string, how: PointFlags],
  flags: Flags,
): Promise<void> {
  const signal = stopping();
  const { openPoint, ownersOfRuns, unlikeSectors } = await import('../activity-files.js');
  const runs = await unlikeSectors(left, right);
  const { partition, top, replay } = flags;
  const { search, format } = how;
  const request = { partition, top, replay, search, format, signal };
  const owners = await ownersOfRuns(() => openPoint(path, how), runs, request);
  await show(`${right.label}, where it differs from ${left.label}`, owners, flags, {
    left: left.id,
    right: right.id,
  });
}

type Side = readonly [point: NamedPoint, how: PointFlags];

async function files(left: Side, right: Side, flags: Flags): Promise<void> {
  const { FileView, compareFiles } = await import('../diff.js');
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
  const views: View[] = [];
  const array = flags.json ? new JsonArray() : undefined;
  try {
    for (const [point, how] of [left, right]) {
      views.push(await FileView.open(point, flags.partition, { ...how, replay: flags.replay }, stop.signal));
    }
    const options = { all: flags.all ?? false, bytes: flags.bytes ?? false };
    if (!array) await write(fileRow('KIND', 'LEFT', 'RIGHT', 'PATH'));
    for await (const one of compareFiles(views[0]!.path, views[1]!.path, options)) {
      if (stop.signal.aborted) throw new AsofError('RESTORE_FAILED', 'the comparison was stopped');
      if (one.kind === 'unreadable') process.exitCode = EXIT.defects;
      if (array) await array.add(one);
      else await write(fileForPeople(one));
    }
    await array?.end();
  } finally {
    for (const view of views) await view.close();
  }
}

function fileForPeople({ kind, left, path, right, why }: ComparedFile): string {
  const cell = (size: number | null) => (size === null ? '-' : humanSize(size));
  const reasons = why.length > 0 ? ` (${why.join(', ')})` : '';
  return fileRow(SAID[kind], cell(left), cell(right), printable(`${path}${reasons}`));
}

function fileRow(...cells: [string, string, string, string]): string {
  return line(cells, ['<', '>', '>', '<'], [10, 10, 10, 0]);
}
