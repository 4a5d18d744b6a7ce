/**
 * The files of a point: a mount of asof, a loop device on its disk, and the file system on that, mounted so that nothing is
 * written and no journal is replayed. All of it lies in one folder in /run/asof, named for the process that made it; what a
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
  readonly #folder: string;
  readonly #point: NamedPoint;
  #open = true;

  private constructor(folder: string, type: string, point: NamedPoint) {
    this.#folder = folder;
    this.path = join(folder, 'fs');
    this.type = type;
    this.#point = point;
  }

  /** Owns the point. Throws MOUNT_FAILED, FILE_SYSTEM_UNKNOWN or PARTITION_UNKNOWN; then nothing is left. */
  static async open(
    point: NamedPoint,
    partition: number | undefined,
    { search, format }: PointOptions,
    signal?: AbortSignal,
  ): Promise<FileView> {
    if (process.geteuid?.() !== 0) {
      throw new AsofError('MOUNT_FAILED', 'only root may mount the file system of a point');
    }
    await sweep();
    const { start, length, type } = await fileSystemOf(point, partition);
    mkdirSync(ROOT, { recursive: true, mode: 0o700 });
    const folder = mkdtempSync(join(ROOT, `${process.pid}-${startOf(process.pid)}-`));
    const view = new FileView(folder, type, point);
    try {
      for (const name of ['disk', 'fs']) mkdirSync(join(folder, name), { mode: 0o700 });
      const options = [
        ...(search ?? []).flatMap(one => ['--search', one]),
        ...(format === undefined ? [] : ['--format', format]),
      ];
      await run(process.execPath, [BIN, 'mount', point.mount.path, join(folder, 'disk'), ...options], signal);
      const disk = join(folder, 'disk', point.mount.disk);
      const sector = point.source.sectorSize === 4096 ? ['--sector-size', '4096'] : [];
      const place = ['--offset', String(start), '--sizelimit', String(length)];
      const loop = await run(
        'losetup',
        ['--read-only', '--find', '--show', ...sector, ...place, disk],
        signal,
      );
      const { type: kind, options: more } = MOUNTS[type]!;
      try {
        const how = ['ro', 'nodev', 'nosuid', ...(more === '' ? [] : [more])].join(',');
        await run('mount', ['-t', kind, '-o', how, loop.trim(), view.path], signal);
      } finally {
        // In use it stays until its last user has gone, whatever becomes of us.
        await run('losetup', ['--detach', loop.trim()]);
      }
      return view;
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
