/** `asof restore`: the bytes of a point, a partition or files of it, to where they are needed again. */
import type { Command } from 'commander';
import { AsofError, EXIT } from '../errors.js';
import type { Restored, RestoreProgress } from '../restore.js';
import type { FilesRestored } from '../restore-files.js';
import { counted, printable } from './columns.js';
import { humanSeconds } from './duration.js';
import { formatHelp, type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { Phases } from './phases.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { humanSize, parseSize } from './size.js';

/** Runs that people are shown. */
const SHOWN = 20;

export interface PointFlags extends JsonFlag {
  readonly partition?: number;
  readonly volume?: string;
  readonly search?: readonly string[];
  readonly format?: string;
}

interface Flags extends PointFlags {
  readonly files?: readonly string[];
  readonly into?: string;
  readonly dryRun?: boolean;
  readonly force?: boolean;
  readonly verify: boolean;
  readonly ignoreReadErrors?: boolean;
  readonly rate?: number;
  readonly replay: boolean;
}

/** What says which point, beside its name. */
export function withNamedPoint(command: Command): Command {
  return withJson(command)
    .option('--partition <N>', 'of this partition alone (GPT or MBR)', parsePartition)
    .option('--volume <NAME>', 'of a history with more than one volume', named('--volume'))
    .option(
      '--search <DIR>',
      'a folder in which parents of an image may be found; repeatable',
      (folder: string, before: readonly string[] = []) => [...before, named('--search')(folder)],
    )
    .option('--format <NAME>', formatHelp('an image'));
}

export const POINT_HELP =
  'the folder of a history, a file of a point in it, or an image; with @ and which of its points behind it';

export const REPLAY_HELP =
  'with --files, do not replay the journal of the file system: what stands in the journal alone is not seen';

export function parsePartition(text: string): number {
  const number = Number(text);
  if (/^\d{1,4}$/.test(text) && number > 0) return number;
  throw new AsofError('USAGE', `--partition ${JSON.stringify(text)} is no number from 1 on`);
}

export function define(command: Command): void {
  withNamedPoint(command)
    .argument('<POINT>', POINT_HELP, named('POINT'))
    .argument('[TARGET]', 'a file, which becomes sparse, or a block device', named('TARGET'))
    .option('--files <PATH...>', 'files and folders of its file system, instead of sectors')
    .option('--into <DIR>', 'the folder into which they go', named('--into'))
    .option('--no-replay', REPLAY_HELP)
    .option('--dry-run', 'look at everything, and write nothing')
    .option('--force', 'overwrite what TARGET holds')
    .option('--no-verify', 'do not read back what was written')
    .option(
      '--ignore-read-errors',
      'go on where the point cannot be read or is not what it was; such runs are listed',
    )
    .option('--rate <SIZE>', 'bytes that are written in a second at most', text => parseSize(text, '--rate'))
    .addHelpText(
      'after',
      `
What is read is compared with the digests of the history before it is written, and what was written is read back. TARGET must
not be in use, must be large enough, and must hold nothing, unless --force is given. On a larger disk the second header of a
GPT is moved to its end. The first MiB is written last: what was left half-written holds nothing that could be mounted.

Files keep owner, mode, times, extended attributes, ACLs and holes. PATH begins at the root of the file system; no symbolic
link is followed, and nothing in DIR is overwritten. The journal of the file system is replayed in a view that is thrown away.
${examples([
  'asof restore /backup/vm /dev/sdc --dry-run',
  'asof restore /backup/vm@2026-11-21T10:15 disk.img',
  'asof restore /backup/vm@3f2c91d0 /dev/sdc1 --partition 1 --force',
  'asof restore /backup/vm --partition 2 --files /home/alice /etc/fstab --into /srv/restored',
])}`,
    )
    .action(async (text: string, target: string | undefined, flags: Flags) => {
      const stop = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
      if (flags.files) return await restoreFiles(text, target, flags, stop.signal);
      if (target === undefined || flags.into !== undefined) {
        throw new AsofError(
          'USAGE',
          'a restore needs a TARGET, or --files and --into',
          'asof restore --help',
        );
      }
      const { openPoint, restore } = await import('../restore.js');
      const point = openPoint(text, flags);
      const shown = new Phases(flags.json ?? false, barOf);
      try {
        const result = await restore(point, target, {
          partition: flags.partition,
          dryRun: flags.dryRun ?? false,
          force: flags.force ?? false,
          verify: flags.verify,
          ignoreReadErrors: flags.ignoreReadErrors ?? false,
          rate: flags.rate ?? 0,
          signal: stop.signal,
          progress: state => shown.at(state),
        });
        shown.end();
        if (result.unsound.length > 0) process.exitCode = EXIT.defects;
        if (flags.json) await writeJson(result);
        else await write(forPeople(result, point.label));
      } finally {
        shown.end();
        point.close();
      }
    });
}

async function restoreFiles(text: string, target: string | undefined, flags: Flags, signal: AbortSignal) {
  if (flags.into === undefined || target !== undefined) {
    throw new AsofError('USAGE', '--files goes with --into DIR, and with no TARGET', 'asof restore --help');
  }
  const { openPoint } = await import('../restore.js');
  const { restoreFiles: restore } = await import('../restore-files.js');
  const point = openPoint(text, flags);
  const { label } = point;
  const { into, partition, volume, search, format, replay } = flags;
  const dryRun = flags.dryRun ?? false;
  const request = {
    paths: flags.files ?? [],
    into,
    partition,
    volume,
    search,
    format,
    replay,
    dryRun,
    signal,
  };
  const result = await restore(point, request);
  if (flags.json) await writeJson(result);
  else await write(filesForPeople(result, label));
}

function forPeople(result: Restored, label: string): string {
  const { target, length, held, written, verified, unsound, dryRun } = result;
  const lines = [
    `${label}: ${humanSize(length)}, of which ${humanSize(held)} are no zeros`,
    `${target.path}: a ${target.kind}${target.exists ? ` of ${humanSize(target.size)}` : ', to be made'}${target.holds ? `, which holds ${target.holds}` : ''}`,
  ];
  if (result.gptMoved)
    lines.push(`the second header of its GPT ${dryRun ? 'would be' : 'is'} at the end of the larger disk`);
  if (dryRun) lines.push('nothing was written (--dry-run)');
  else {
    const back = verified === null ? 'not read back' : `${humanSize(verified)} read back and found right`;
    lines.push(`${humanSize(written)} written, ${back}; ${humanSeconds(result.milliseconds / 1000)}`);
  }
  for (const { offset, length: size, why } of unsound.slice(0, SHOWN)) {
    lines.push(`${size} bytes at ${offset} are not sound: ${why}`);
  }
  if (unsound.length > SHOWN) lines.push(`and ${counted(unsound.length - SHOWN, 'more run')}`);
  return lines.map(text => `${printable(text)}\n`).join('');
}

function filesForPeople({ files, fileSystem, replay, dryRun }: FilesRestored, label: string): string {
  const lines = [
    `${label}, ${fileSystem}: ${replay.why}`,
    ...files.map(({ from, to }) => `${from} -> ${to}`),
  ];
  if (dryRun) lines.push('nothing was written (--dry-run)');
  return lines.map(text => `${printable(text)}\n`).join('');
}

function barOf({ phase, total }: RestoreProgress): Progress {
  return new Progress(phase === 'write' ? 'writing' : 'reading back', total);
}
