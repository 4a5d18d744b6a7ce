/**
 * The files of a point: a mount of asof, a loop device on its disk, and the file system on that, mounted read-only. Where the
 * file system has a journal, the disk is a writable view in which the kernel replays it (src/block/overlay.ts): what stands in the
 * journal alone is seen, and the point stays what it is. The layer of that view is thrown away. All of it lies in one folder in /run/asof, named for the process that made it; what a
 * killed one has left there is taken down by the next run.
 */
import { type ExecFileException, execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Disk } from './block/disk.js';
import { partitionOf, partitionsOf } from './block/partitions.js';
import { signatureOf } from './block/signature.js';
import { AsofError, errnoOf } from './errors.js';
import { listMounts } from './mount/mounts.js';
import type { NamedPoint, PointOptions } from './named-point.js';
import { Engine, loadAddon } from './native.js';
import { partitioned } from './restore.js';
import { command } from './shell.js';

/** File systems whose journal the kernel replays when it mounts them on what can be written, and how that is. */
const REPLAYS: Readonly<Record<string, string>> = { ext4: '', xfs: 'nouuid', btrfs: '', f2fs: '' };

export interface ViewOptions extends PointOptions {
  /** Whether journals are replayed; they are unless this is false. */
  readonly replay?: boolean | undefined;
}

/** What became of the journal. */
export interface Replay {
  /** The kernel wrote to the view of the point. */
  readonly replayed: boolean;
  readonly why: string;
}

const ROOT = '/run/asof/files';
const BIN = new URL('../../bin/asof', import.meta.url).pathname;

/** How each file system is mounted without a write, also one that was not unmounted. */
const MOUNTS: Readonly<Record<string, { readonly type: string; readonly options: string }>> = {
  ext2: { type: 'ext4', options: 'noload' },
  ext3: { type: 'ext4', options: 'noload' },
  ext4: { type: 'ext4', options: 'noload' },
  xfs: { type: 'xfs', options: 'norecovery,nouuid' },
  btrfs: { type: 'btrfs', options: 'rescue=nologreplay' },
  ntfs: { type: 'ntfs-3g', options: '' },
  vfat: { type: 'vfat', options: '' },
  exfat: { type: 'exfat', options: '' },
  f2fs: { type: 'f2fs', options: 'norecovery' },
  squashfs: { type: 'squashfs', options: '' },
  erofs: { type: 'erofs', options: '' },
  iso9660: { type: 'iso9660', options: '' },
};

export class FileView {
  /** The root of the file system. */
  readonly path: string;
  readonly type: string;
  /** The loop device that it is mounted on; it goes with the mount. */
  readonly device: string;
  /** Where the file system lies on the disk, bytes. */
  readonly start: number;
  readonly length: number;
  readonly replay: Replay;
  readonly #folder: string;
  readonly #point: NamedPoint;
  #open = true;

  private constructor(
    folder: string,
    facts: Pick<FileView, 'type' | 'device' | 'start' | 'length' | 'replay'>,
    point: NamedPoint,
  ) {
    this.#folder = folder;
    this.path = join(folder, 'fs');
    this.type = facts.type;
    this.device = facts.device;
    this.start = facts.start;
    this.length = facts.length;
    this.replay = facts.replay;
    this.#point = point;
  }

  /** Owns the point. Throws MOUNT_FAILED, FILE_SYSTEM_UNKNOWN or PARTITION_UNKNOWN; then nothing is left. */
  static async open(
    point: NamedPoint,
    partition: number | undefined,
    options: ViewOptions,
    signal?: AbortSignal,
  ): Promise<FileView> {
    if (process.geteuid?.() !== 0) {
      throw new AsofError('MOUNT_FAILED', 'only root may mount the file system of a point');
    }
    await sweep();
    const { start, length, type } = await fileSystemOf(point, partition);
    const not = notReplayed(type, point, options);
    mkdirSync(ROOT, { recursive: true, mode: 0o700 });
    const folder = mkdtempSync(join(ROOT, `${process.pid}-${startOf(process.pid)}-`));
    try {
      const there = join(folder, 'disk');
      for (const path of [there, join(folder, 'fs')]) mkdirSync(path, { mode: 0o700 });
      const disk = await shown(point, there, not === undefined, options, signal);
      const sector = point.source.sectorSize === 4096 ? ['--sector-size', '4096'] : [];
      const place = ['--offset', String(start), '--sizelimit', String(length)];
      const access = not === undefined ? [] : ['--read-only'];
      const loop = await run('losetup', [...access, '--find', '--show', ...sector, ...place, disk], signal);
      const device = loop.trim();
      const atRest = not === undefined && type === 'xfs' && (await isClean(device));
      const { type: kind, options: raw } = MOUNTS[type]!;
      const more = not === undefined ? REPLAYS[type]! : raw;
      try {
        const how = ['ro', 'nodev', 'nosuid', ...(more === '' ? [] : [more])].join(',');
        await run('mount', ['-t', kind, '-o', how, device, join(folder, 'fs')], signal);
      } catch (error) {
        if (not === undefined && error instanceof AsofError && error.code === 'MOUNT_FAILED') {
          throw new AsofError('MOUNT_FAILED', `${error.message}, with its journal replayed`, '--no-replay', {
            cause: error,
          });
        }
        throw error;
      } finally {
        // In use it stays until its last user has gone, whatever becomes of us.
        await run('losetup', ['--detach', device]);
      }
      const replay = not === undefined ? replayIn(there, atRest) : { replayed: false, why: not };
      return new FileView(folder, { type, device, start, length, replay }, point);
    } catch (error) {
      await takeDown(folder);
      throw error;
    }
  }

  /** Takes all of it down, and closes the point. A second call does nothing. */
  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await takeDown(this.#folder);
    this.#point.close();
  }
}

/** Why no journal is replayed; undefined where one may be. */
function notReplayed(
  type: string,
  { mount }: NamedPoint,
  { replay = true }: ViewOptions,
): string | undefined {
  if (!(type in REPLAYS)) return `${type} has no journal that could be replayed here`;
  if (!replay) return 'the journal was not replayed (--no-replay)';
  return 'why' in mount.writable ? `the journal was not replayed: ${mount.writable.why}` : undefined;
}

/** Mounts the point, writable in a layer or as it is; the path of its disk. */
async function shown(
  { mount }: NamedPoint,
  there: string,
  writable: boolean,
  { search, format }: ViewOptions,
  signal?: AbortSignal,
): Promise<string> {
  const over = writable && 'path' in mount.writable ? mount.writable : undefined;
  const options = [
    ...(search ?? []).flatMap(one => ['--search', one]),
    ...(format === undefined || over?.format ? [] : ['--format', format]),
    ...(over?.format ? ['--format', over.format] : []),
    ...(over ? ['--overlay'] : []),
  ];
  await run(process.execPath, [BIN, 'mount', over?.path ?? mount.path, there, ...options], signal);
  return join(there, over ? 'disk' : mount.disk);
}

/** What was written to the layer tells: a file system that was at rest is mounted without a write. */
function replayIn(there: string, atRest: boolean): Replay {
  const info = JSON.parse(readFileSync(join(there, 'info.json'), 'utf8')) as {
    readonly overlay: { readonly written: number };
  };
  return info.overlay.written > 0 && !atRest
    ? {
        replayed: true,
        why: 'the journal was replayed, in a view that is thrown away; the point is unchanged',
      }
    : { replayed: false, why: 'the journal had nothing to replay' };
}

/** Whether the log of an XFS has nothing to replay; its mount writes to it all the same. False where nobody can say. */
async function isClean(device: string): Promise<boolean> {
  const told = await run('xfs_logprint', ['-t', device]).catch(() => '');
  return told.includes('state: <CLEAN>');
}

async function fileSystemOf(point: NamedPoint, partition: number | undefined) {
  const engine = new Engine({ cacheBytes: 2 ** 22, mapBytes: 2 ** 22, threads: availableParallelism() });
  const disk = new Disk(engine, { ...point.source, close() {} });
  try {
    const whole = partitioned(disk);
    const { start, size } =
      partition === undefined
        ? { start: 0, size: disk.size }
        : await partitionOf(whole, partition, point.label);
    const type = await signatureOf((offset, length) => {
      const from = Math.min(offset, size);
      return whole.read(start + from, Math.min(length, size - from));
    }, size);
    if (type !== undefined && type in MOUNTS) return { start, length: size, type };
    const table = partition === undefined ? await partitionsOf(whole) : undefined;
    const where = partition === undefined ? point.label : `partition ${partition} of ${point.label}`;
    throw new AsofError(
      'FILE_SYSTEM_UNKNOWN',
      `${where} holds no file system that can be mounted here: ${type ?? 'nothing known'}`,
      table ? `--partition N, with N of ${table.partitions.map(({ number }) => number).join(', ')}` : '',
    );
  } finally {
    disk.close();
    engine.close();
  }
}

/** Takes down what processes that have gone have left. Never fails: what cannot go now may go the next time. */
export async function sweep(): Promise<void> {
  for (const name of list(ROOT)) {
    const [pid, started] = name.split('-');
    if (started !== '' && startOf(Number(pid)) === started) continue;
    await takeDown(join(ROOT, name)).catch(() => {});
  }
}

async function takeDown(folder: string): Promise<void> {
  const fs = join(folder, 'fs');
  const disk = join(folder, 'disk');
  const mountedOn = (path: string) => listMounts().some(mount => mount.mountPoint === path);
  while (mountedOn(fs)) {
    await run('umount', [fs]).catch(() => loadAddon().unmount(fs, true));
  }
  for (const name of list('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    if (!text(`/sys/block/${name}/loop/backing_file`).startsWith(`${disk}/`)) continue;
    await run('losetup', ['--detach', `/dev/${name}`]).catch(() => {});
  }
  while (mountedOn(disk)) {
    // The loop device may be letting go of it at this moment.
    await run(process.execPath, [BIN, 'umount', disk]).catch(() => loadAddon().unmount(disk, true));
  }
  for (const path of [fs, disk, folder]) {
    try {
      rmdirSync(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
}

/** When a process began, in ticks since the start of the system; '' where there is none (proc_pid_stat(5)). */
function startOf(pid: number): string {
  const stat = text(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
}

/** What it prints. Throws MOUNT_FAILED with what it said, or RESTORE_FAILED where it was stopped. */
function run(program: string, args: readonly string[], signal?: AbortSignal): Promise<string> {
  return new Promise((done, failed) => {
    const env = { ...process.env, LC_ALL: 'C' };
    execFile(program, [...args], { env, signal }, (error: ExecFileException | null, stdout, stderr) => {
      if (!error) return done(stdout);
      if (signal?.aborted) return failed(new AsofError('RESTORE_FAILED', 'it was stopped'));
      const said = stderr.trim().split('\n').at(0) || error.message;
      const name = program === process.execPath ? 'asof' : program;
      failed(new AsofError('MOUNT_FAILED', `${name} ${args.join(' ')}: ${said}`, command`which ${name}`));
    });
  });
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
