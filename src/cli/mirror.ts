/** `asof mirror`: a copy of a disk that boots where the disk boots, kept current in place. */
import { realpathSync, statSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { AsofError, EXIT } from '../errors.js';
import type {
  Mirrored,
  MirrorOptions,
  MirrorProgress,
  MirrorSource,
  MirrorStatus,
  NamedPoint,
} from '../mirror.js';
import { isVolume } from './backup-volume.js';
import { printable } from './columns.js';
import { humanSeconds } from './duration.js';
import { readableOf, withLease } from './lease.js';
import { type MomentFlags, momentBody, withMoment } from './moment.js';
import { named } from './options.js';
import { write, writeJson } from './output.js';
import { Phases } from './phases.js';
import { examples } from './program.js';
import { Progress } from './progress.js';
import { humanSize, parseSize } from './size.js';
import { providersOf } from './snapshot.js';
import { type StateFlags, stateFolder, withState } from './state.js';

interface Flags extends StateFlags, MomentFlags {
  readonly status?: string;
  readonly method: MirrorOptions['method'];
  readonly guard: number;
  readonly acceptChanges?: boolean;
  readonly force?: boolean;
  readonly dryRun?: boolean;
  readonly verify: boolean;
  readonly rate?: number;
  readonly provider?: readonly string[];
  readonly volume?: string;
  readonly search?: readonly string[];
  readonly format?: string;
}

/** What may differ before a run stops, unless the user says otherwise: of what is in use. */
const GUARD = 0.3;

export function define(command: Command): void {
  withMoment(withState(command))
    .argument(
      '[SOURCE]',
      'the name of a volume; or a point of a history or an image (a path), as for asof restore',
      named('SOURCE'),
    )
    .argument('[TARGET]', 'a block device, or a file, which becomes sparse', named('TARGET'))
    .option('--status <TARGET>', 'say whether a mirror is whole, and what it holds', named('--status'))
    .option('--dry-run', 'look at everything, and write nothing')
    .addOption(
      new Option(
        '--method <HOW>',
        'how differences are found: by what the tracker knows, or by comparing all',
      )
        .choices(['auto', 'tracked', 'compared'])
        .default('auto'),
    )
    .option(
      '--guard <SHARE>',
      'stop before anything is written where more of what is in use would change (30% unless given)',
      parseShare,
      GUARD,
    )
    .option('--accept-changes', 'go on, however much would change, and where SOURCE looks destroyed')
    .option('--force', 'overwrite what TARGET holds; also where it is another one, or was written to since')
    .option('--no-verify', 'do not read back what was written')
    .option('--rate <SIZE>', 'bytes that are compared, or written, in a second at most', text =>
      parseSize(text, '--rate'),
    )
    .option(
      '--provider <NAME,…>',
      'what takes the snapshot, in the order in which they are tried; repeatable',
      (text: string, before: readonly string[] = []) => [...before, ...providersOf(text)],
    )
    .option('--volume <NAME>', 'of a history with more than one volume', named('--volume'))
    .option(
      '--search <DIR>',
      'a folder in which parents of an image may be found; repeatable',
      (folder: string, before: readonly string[] = []) => [...before, named('--search')(folder)],
    )
    .option('--format <NAME>', 'the format of an image (recognised unless given): qcow2, raw')
    .addHelpText(
      'after',
      `
Of a volume a snapshot is taken, as asof snapshot create takes it, and deleted at the end. TARGET is compared with it, and only
what differs is written, and read back; a run that finds no difference writes nothing. From the first write to the last flush
TARGET is marked as being updated, in a record in the state directory and at its own start, where then no table of partitions
and no file system can be found. A run that did not end is made good by the next one.

Refused is a TARGET that holds something else, that is in use, that is not the one of the last run or was written to since; and,
where it has been whole before, a run that would change more than --guard allows, or whose SOURCE has lost its table of
partitions or a file system. --status ends with 0 where the mirror is whole, with 3 where it is not, or was written to since.
${examples([
  'asof mirror data /dev/disk/by-id/usb-Spare_1234',
  'asof mirror data /srv/spare.img --consistency filesystem',
  'asof mirror /backup/vm@2026-11-21 /srv/spare.img --dry-run',
  'asof mirror --status /srv/spare.img',
])}`,
    )
    .action(async (source: string | undefined, target: string | undefined, flags: Flags) => {
      if (flags.status !== undefined) {
        if (source !== undefined)
          throw new AsofError('USAGE', '--status takes its TARGET alone', 'asof mirror --help');
        return await status(flags.status, flags);
      }
      if (source === undefined || target === undefined) {
        throw new AsofError('USAGE', 'a mirror needs a SOURCE and a TARGET', 'asof mirror --help');
      }
      await mirrorTo(source, target, flags);
    });
}

async function mirrorTo(source: string, target: string, flags: Flags): Promise<void> {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
  const { mirror, openPoint } = await import('../mirror.js');
  const shown = new Phases(flags.json ?? false, barOf);
  const options: MirrorOptions = {
    state: stateFolder(flags.state),
    method: flags.method,
    guard: flags.guard,
    acceptChanges: flags.acceptChanges ?? false,
    force: flags.force ?? false,
    dryRun: flags.dryRun ?? false,
    verify: flags.verify,
    rate: flags.rate ?? 0,
    signal: stop.signal,
    progress: state => shown.at(state),
  };
  const run = async (what: MirrorSource) => {
    try {
      return await mirror(what, target, options);
    } finally {
      what.point.close();
      shown.end();
    }
  };
  const result = isVolume(source)
    ? await ofVolume(source, flags, stop, point => openPoint(point, { format: 'raw' }), run)
    : await run(ofPoint(openPoint(source, flags)));
  if (flags.json) await writeJson(result);
  else await write(forPeople(result));
}

async function ofVolume(
  name: string,
  flags: Flags,
  stop: AbortController,
  open: (path: string) => NamedPoint,
  run: (source: MirrorSource) => Promise<Mirrored>,
): Promise<Mirrored> {
  const { provider: providers } = flags;
  const request = { ...momentBody(flags), ...(providers === undefined ? {} : { providers }) };
  const { result, marks } = await withLease([name], flags, request, async (client, lease, gone) => {
    gone.addEventListener('abort', () => stop.abort());
    const [snapshot] = lease.snapshots;
    if (snapshot!.state === 'none') {
      throw new AsofError('PROVIDER_UNAVAILABLE', `the snapshot preserves nothing: ${snapshot!.why}`);
    }
    const { volume, mount, path, tracker, changed } = await readableOf(client, snapshot!);
    return run({
      point: open(path),
      volume: { id: volume.id, name: volume.name },
      time: new Date(snapshot!.at),
      consistency: snapshot!.consistency,
      snapshot: snapshot!.id,
      files: [realPathOf(volume.origin), `${mount}/volumes/${volume.name}/live`],
      tracker,
      changed,
    });
  });
  for (const mark of marks) {
    process.stderr.write(`asof: ${printable(mark)}\n`);
    // It is there, and yet its job is not as it should be.
    process.exitCode = EXIT.defects;
  }
  return result;
}

/** An image or a file has no tracker; that nobody writes to it meanwhile, its times tell. */
function ofPoint(point: NamedPoint): MirrorSource {
  const [first = ''] = point.files;
  const states = () => point.files.map(stateOf).join('\n');
  const before = states();
  const isFile = point.files.every(path => statSync(path).isFile());
  return {
    point,
    volume: point.volume ?? { id: `path:${first}`, name: first },
    time: point.time,
    consistency: isFile ? 'quiet' : 'unknown',
    snapshot: null,
    files: [],
    tracker: undefined,
    changed: () =>
      !isFile || states() === before
        ? undefined
        : `${first} was written to while it was read: that is no one moment`,
  };
}

/** Size and times of writing; those of a block device say nothing. */
function stateOf(path: string): string {
  const { size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
  return `${size} ${mtimeNs} ${ctimeNs}`;
}

function realPathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

async function status(target: string, flags: Flags): Promise<void> {
  const { statusOf } = await import('../mirror.js');
  const found = statusOf(target, stateFolder(flags.state));
  if (found.state !== 'whole') process.exitCode = EXIT.defects;
  if (flags.json) await writeJson(found);
  else await write(statusForPeople(found));
}

function statusForPeople({ target, state, why, source, moment, since }: MirrorStatus): string {
  const said = { whole: 'whole', updating: 'BEING UPDATED, not whole', altered: 'written to since' };
  const lines = [`${target}: ${said[state]}${why ? `: ${why}` : ''}`];
  if (source) lines.push(`mirror of ${source}`);
  if (moment) {
    const what = state === 'updating' ? 'is to hold' : 'holds';
    lines.push(`${what} ${moment.time} (${moment.consistency}), ${humanSize(moment.size)}`);
  }
  if (since) lines.push(`${state === 'updating' ? 'began' : 'ended'} ${since}`);
  return lines.map(text => `${printable(text)}\n`).join('');
}

/** `30%`: 0 to 1. */
function parseShare(text: string): number {
  const share = Number(/^(\d{1,3}(?:\.\d+)?)%?$/.exec(text.trim())?.[1] ?? Number.NaN) / 100;
  if (share >= 0 && share <= 1) return share;
  throw new AsofError('USAGE', `--guard ${JSON.stringify(text)} is no share`, 'allowed are 0% to 100%');
}

function forPeople(result: Mirrored): string {
  const { source, moment, target, method, methodWhy, dryRun, written, zeroed, verified } = result;
  const share = Math.round(result.share * 1000) / 10;
  const made = target.exists ? ` of ${humanSize(target.size)}` : dryRun ? ', to be made' : ', made';
  const lines = [
    `${source.name} of ${moment.time} (${moment.consistency}), ${humanSize(moment.size)}`,
    `${target.path}: a ${target.kind}${made}`,
    `${method}${methodWhy ? `: ${methodWhy}` : ''}`,
    `${humanSize(result.compared)} compared; ${humanSize(result.differing)} differ, ${share} % of what is in use`,
  ];
  if (result.gptMoved)
    lines.push(`the second header of its GPT ${dryRun ? 'would be' : 'is'} at the end of the larger disk`);
  if (dryRun) lines.push('nothing was written (--dry-run)');
  else if (written + zeroed === 0) lines.push('nothing had to be written; it is whole');
  else {
    const back = verified === null ? 'not read back' : `${humanSize(verified)} read back and found right`;
    const took = humanSeconds(result.milliseconds / 1000);
    lines.push(
      `${humanSize(written)} written, ${humanSize(zeroed)} made zeros, ${back}; it is whole; ${took}`,
    );
  }
  return lines.map(text => `${printable(text)}\n`).join('');
}

function barOf({ phase, total }: MirrorProgress): Progress {
  return new Progress({ compare: 'comparing', write: 'writing', verify: 'reading back' }[phase], total);
}
