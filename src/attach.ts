/**
 * Composition of `asof attach`: a point as a drive of this machine. A mount of asof (one that stands already, or one made for
 * it), on its disk a read-only loop device with the partitions that were found, and on those, with a folder, their file
 * systems, mounted without a write. Without root there is no loop device: FUSE programs mount the files of the partitions.
 *
 * Each step is in the attachment's record before it is taken (src/mount/attachments.ts). Whatever fails, all of it is taken
 * down again; what a killed process has left is taken down by `sweep`, with which each command begins.
 */
import { type ExecFileException, execFile } from 'node:child_process';
import { mkdirSync, realpathSync, rmdirSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';
import type { Content } from './block/content.js';
import { AsofError, errnoOf } from './errors.js';
import {
  type AttachedFileSystem,
  type Attachment,
  diskFolderOf,
  forgetAttachment,
  isAbandoned,
  isUnchanged,
  listAttachments,
  newAttachment,
  removeMade,
  writeAttachment,
} from './mount/attachments.js';
import type { User } from './mount/holders.js';
import { letGo, loopsOf, usersOfAttachment } from './mount/let-go.js';
import { addPartition, openLoop } from './mount/loop-device.js';
import { freeMountPoint, detach as unmountNow } from './mount/mount-point.js';
import { canonical, listMounts, type MountEntry, mountAt } from './mount/mounts.js';
import { mayAllowOther, mountReadOnly, READ_ONLY_MOUNTS } from './mount/read-only.js';
import { isRunning, listAsofMounts, registered, serverOf, startTime } from './mount/registry.js';
import { runTool } from './mount/tool.js';
import { unmountAt } from './mount/unmount.js';
import { openPoint, type PointOptions } from './named-point.js';
import type { PartitionsInfo } from './partition-tree.js';
import { command } from './shell.js';
import { target } from './sysfs.js';

const BIN = new URL('../../bin/asof', import.meta.url).pathname;

export type { Attachment, User };

export interface AttachOptions extends PointOptions {
  /** Only this one's file system is mounted. */
  readonly partition?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Attached {
  readonly attachment: Attachment;
  /** What the disk holds. */
  readonly info: PartitionsInfo;
  /** What of it could not be had, and why. */
  readonly troubles: readonly string[];
}

export interface Listed {
  readonly attachment: Attachment;
  readonly users: readonly User[];
}

/** Where the disk of a point is to be found. */
interface Place {
  readonly point: Attachment['point'];
  /** For `asof mount`; null where it stands in a mount of somebody's. */
  readonly path: string | null;
  /** The mount in which it stands already. */
  readonly mount: MountEntry | undefined;
  /** Of its file, in the mount. */
  readonly disk: string;
}

/** What of an info.json is asked for here. */
type PointFacts = PartitionsInfo & {
  readonly id?: string;
  readonly path?: string;
  readonly time?: string | number;
  readonly sectorSize?: number;
  readonly manifest?: { readonly time: string };
  readonly points?: readonly { readonly id: string; readonly time: string }[];
};

/**
 * Throws MOUNT_POINT where `dir` cannot be mounted on, POINT_UNKNOWN, FILE_SYSTEM_UNKNOWN, PARTITION_UNKNOWN, MOUNT_FAILED,
 * DRIVER_UNAVAILABLE, and what opening an image throws; then nothing is left.
 */
export async function attach(
  asked: string,
  dir: string | undefined,
  options: AttachOptions,
): Promise<Attached> {
  await sweep();
  const isRoot = process.geteuid?.() === 0;
  if (!isRoot && dir === undefined) {
    const why = 'a loop device is for root; without root, only file systems can be attached';
    throw new AsofError('USAGE', why, command`asof attach ${asked} DIR`);
  }
  const folder = dir === undefined ? null : await freeMountPoint(dir);
  const place = await placeOf(asked, options);
  const work = new Attaching(asked, folder, place, isRoot, options);
  try {
    return await work.run();
  } catch (error) {
    await work.undo();
    throw error;
  }
}

class Attaching {
  readonly #isRoot: boolean;
  readonly #place: Place;
  readonly #options: AttachOptions;
  readonly #troubles: string[] = [];
  #record: Attachment;

  constructor(asked: string, dir: string | null, place: Place, isRoot: boolean, options: AttachOptions) {
    this.#isRoot = isRoot;
    this.#place = place;
    this.#options = options;
    const folder = newAttachment();
    const own = place.mount === undefined;
    const at = own || isRoot ? join(folder, 'disk') : place.mount!.mountPoint;
    this.#record = {
      folder,
      state: 'attaching',
      process: { pid: process.pid, started: startTime(process.pid) ?? '' },
      asked: absolute(asked),
      point: place.point,
      path: place.path,
      mountPoint: own ? at : place.mount!.mountPoint,
      own,
      disk: join(at, place.disk),
      device: null,
      partitions: [],
      dir,
      fileSystems: [],
    };
    writeAttachment(this.#record);
  }

  async run(): Promise<Attached> {
    await this.#mount();
    const facts = await factsOf(this.#record.disk);
    const info = wholeOf(facts, basename(this.#record.disk));
    if (this.#isRoot) await this.#device(info, facts.sectorSize ?? 512);
    if (this.#record.dir !== null) await this.#fileSystems(info);
    const server = serverAt(this.#record);
    this.#write({ state: 'attached', process: server ?? null });
    return { attachment: this.#record, info, troubles: this.#troubles };
  }

  /** Never fails: what cannot go now goes with the next command. */
  async undo(): Promise<void> {
    await takeDown(this.#record, true).catch(() => {});
  }

  #write(change: Partial<Attachment>): void {
    if (this.#options.signal?.aborted) throw new AsofError('MOUNT_FAILED', 'it was stopped');
    this.#record = { ...this.#record, ...change };
    writeAttachment(this.#record);
  }

  async #mount(): Promise<void> {
    const { path, mount } = this.#place;
    const { search, format } = this.#options;
    const at = diskFolderOf(this.#record);
    if (mount) {
      // A second place of the same mount, so that the device can be told by the path of its file.
      if (this.#isRoot) await runTool('mount', ['--bind', mount.mountPoint, at]);
      return;
    }
    const words = [
      ...(search ?? []).flatMap(one => ['--search', one]),
      ...(format === undefined ? [] : ['--format', format]),
    ];
    // For programs that become root; the folder above lets nobody else in.
    if (!this.#isRoot && mayAllowOther()) words.push('--allow-other');
    await runAsof(['mount', '--json', path!, at, ...words]);
  }

  async #device(info: PartitionsInfo, sectorSize: number): Promise<void> {
    const { disk } = this.#record;
    this.#write({});
    const size = info.partitionTable?.sectorSize ?? sectorSize;
    this.#write({ device: await openLoop(disk, size) });
    for (const { number, start, length } of info.partitions) {
      try {
        const device = await addPartition(this.#record.device!, { number, start, length });
        this.#write({ partitions: [...this.#record.partitions, { number, device }] });
      } catch (error) {
        // Partitions that overlap are one thing that the kernel takes for an error.
        this.#troubles.push(`p${number} is no device: ${words(error)}`);
      }
    }
  }

  async #fileSystems(info: PartitionsInfo): Promise<void> {
    const found = this.#mountables(info);
    const dir = this.#record.dir!;
    const single = found.length === 1;
    for (const { number, type, uuid, source } of found) {
      const mountPoint = single ? dir : join(dir, number === null ? 'disk' : `p${number}`);
      const one: AttachedFileSystem = { number, type, source, mountPoint, made: !single };
      const before = this.#record.fileSystems;
      this.#write({ fileSystems: [...before, one] });
      if (!single) mkdirSync(mountPoint, { mode: 0o755 });
      try {
        await mountReadOnly({ type, uuid, source }, mountPoint, this.#isRoot);
      } catch (error) {
        if (single) throw error;
        rmdirSync(mountPoint);
        this.#troubles.push(`p${number} is not mounted: ${words(error)}`);
        this.#write({ fileSystems: before });
      }
    }
    if (this.#record.fileSystems.length > 0) return;
    throw new AsofError('MOUNT_FAILED', `no file system could be mounted: ${this.#troubles.join('; ')}`);
  }

  /** Throws FILE_SYSTEM_UNKNOWN or PARTITION_UNKNOWN. */
  #mountables(info: PartitionsInfo) {
    const { disk, device, partitions, point } = this.#record;
    const { partition } = this.#options;
    const known = info.partitions.map(({ number }) => number);
    if (partition !== undefined && !known.includes(partition)) {
      const what = `${point.label} has no partition ${partition}: it has ${known.join(', ') || 'none'}`;
      throw new AsofError('PARTITION_UNKNOWN', what);
    }
    const mountable = (content: Content | null): content is Content =>
      content !== null && content.type in READ_ONLY_MOUNTS;
    const found = info.partitions.flatMap(({ number, file, fileSystem }) => {
      if (!mountable(fileSystem) || (partition !== undefined && number !== partition)) return [];
      const source = device
        ? partitions.find(one => one.number === number)?.device
        : join(dirname(disk), file);
      return source === undefined ? [] : [{ number, ...fileSystem, source }];
    });
    if (found.length > 0) return found;
    if (mountable(info.fileSystem) && partition === undefined) {
      return [{ number: null, ...info.fileSystem, source: device ?? disk }];
    }
    const holds = info.partitions
      .filter(({ number }) => partition === undefined || number === partition)
      .map(({ file, fileSystem, trouble }) => `${file}: ${trouble || fileSystem?.type || 'nothing known'}`);
    const whole = info.fileSystem?.type ?? 'nothing known';
    throw new AsofError(
      'FILE_SYSTEM_UNKNOWN',
      `${point.label} holds no file system that can be mounted here: ${holds.join(', ') || whole}`,
      'asof attach without a folder gives the device alone',
    );
  }
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** `asked` with its path absolute, whatever stands behind an @. */
function absolute(asked: string): string {
  return resolve(asked);
}

/** Throws what src/named-point.ts throws. */
async function placeOf(asked: string, options: PointOptions): Promise<Place> {
  const within = await inMount(asked);
  if (within) return within;
  const point = openPoint(asked, options);
  try {
    const { id, label, mount, time } = point;
    const path = resolve(mount.path);
    const facts = { id, label, time: time.toISOString() };
    // Without root one's own mount, which lets in the programs that need it.
    const standing = process.geteuid?.() === 0 ? await standingMount(path, mount.disk, id) : undefined;
    return { point: facts, path, mount: standing, disk: mount.disk };
  } finally {
    point.close();
  }
}

/** A path in a mount of asof: of a disk, of a partition, or of a folder with a disk. */
async function inMount(asked: string): Promise<Place | undefined> {
  const path = await canonical(asked);
  const mounts = listAsofMounts().map(({ mount }) => mount);
  const mount = mounts
    .filter(({ mountPoint }) => path === mountPoint || path.startsWith(`${mountPoint}/`))
    .sort((a, b) => b.mountPoint.length - a.mountPoint.length)[0];
  if (!mount) return undefined;
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw new AsofError('POINT_UNKNOWN', `${path} does not exist in the mount ${mount.mountPoint}`);
  const disk = stat.isDirectory() ? join(path, 'disk') : path;
  if (!/^(disk|p\d+)$/.test(basename(disk)) || !statSync(disk, { throwIfNoEntry: false })) {
    throw new AsofError(
      'POINT_UNKNOWN',
      `${path} is no disk and no folder with one`,
      'name a disk, a pN or its folder',
    );
  }
  const facts = await factsOf(disk);
  const id = facts.id ?? facts.points?.[0]?.id ?? basename(dirname(disk));
  const time = facts.manifest?.time ?? facts.time ?? facts.points?.[0]?.time ?? '';
  const point = { id, label: path, time: typeof time === 'number' ? new Date(time).toISOString() : time };
  return { point, path: null, mount, disk: relative(mount.mountPoint, disk) };
}

/** A mount of `path` that shows this point, and errors where something is damaged. */
async function standingMount(path: string, disk: string, id: string): Promise<MountEntry | undefined> {
  const real = realpathSync(path);
  for (const { pid, mountId, mountPoint, source } of registered()) {
    if (mountPoint.includes('/asof/attach/') || realOf(source) !== real) continue;
    const mount = mountAt(mountPoint);
    if (mount?.id !== mountId || (await showsZeros(pid))) continue;
    const facts = await factsOf(join(mountPoint, disk)).catch(() => undefined);
    if (facts?.id === id) return mount;
  }
  return undefined;
}

/** Whether a server was told to read zeros in place of what is damaged: that is no drive to hand on. */
async function showsZeros(pid: number): Promise<boolean> {
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return /--on-damage[=\0]zero/.test(line);
}

function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** Throws MOUNT_FAILED. */
async function factsOf(disk: string): Promise<PointFacts> {
  const path = join(dirname(disk), 'info.json');
  try {
    return JSON.parse(await readFile(path, 'utf8')) as PointFacts;
  } catch (error) {
    const why = errnoOf(error) || words(error);
    throw new AsofError('MOUNT_FAILED', `${path} cannot be read: ${why}`, '', { cause: error });
  }
}

/** Of a partition alone: what it holds, as a disk without a table. */
function wholeOf(facts: PointFacts, file: string): PartitionsInfo {
  if (file === 'disk') {
    const { partitionTable = null, partitionDefects = [], fileSystem = null, partitions = [] } = facts;
    return { partitionTable, partitionDefects, fileSystem, partitions };
  }
  const one = facts.partitions.find(partition => partition.file === file);
  return { partitionTable: null, partitionDefects: [], fileSystem: one?.fileSystem ?? null, partitions: [] };
}

function serverAt({ own, mountPoint, folder }: Attachment) {
  const mount = mountAt(own ? diskFolderOf({ folder }) : mountPoint);
  const server = mount && serverOf(mount);
  return server && { pid: server.pid, started: server.started };
}

/** Every attachment, with who uses it. What nobody serves any more is taken down first. */
export async function listAttached(): Promise<Listed[]> {
  await sweep();
  const { attachments } = listAttachments();
  return Promise.all(
    attachments.map(async attachment => ({ attachment, users: await usersOfAttachment(attachment) })),
  );
}

/**
 * Takes down what `what` means: a device, a folder, or a point as it was asked for. All that was attached of it.
 * Throws NOT_ATTACHED, MOUNT_BUSY unless `lazy`, or IO.
 */
export async function detach(what: string, { lazy }: { readonly lazy: boolean }): Promise<Attachment[]> {
  await sweep();
  const { attachments } = listAttachments();
  const path = await canonical(what);
  const meant = attachments.filter(one => means(one, what, path));
  if (meant.length === 0) {
    throw new AsofError('NOT_ATTACHED', `${what} is not attached`, 'asof attach --list');
  }
  for (const attachment of meant) await takeDown(attachment, lazy);
  return meant;
}

function means(attachment: Attachment, what: string, path: string): boolean {
  const { asked, device, dir, fileSystems, partitions, point } = attachment;
  if (what === device || partitions.some(one => one.device === what)) return true;
  if (path === dir || fileSystems.some(({ mountPoint }) => mountPoint === path)) return true;
  return asked === absolute(what) || attachment.path === path || point.id === what;
}

/** Throws MOUNT_BUSY unless `lazy`, and what unmounting throws. */
async function takeDown(attachment: Attachment, lazy: boolean): Promise<void> {
  await letGo(attachment, { lazy });
  const at = diskFolderOf(attachment);
  for (let mount = mountAt(at); mount; mount = mountAt(at)) {
    if (!attachment.own || !serverOf(mount)) await unmountNow(at, true);
    else await unmountAt(at, { lazy: lazy && loopsOf(attachment).length > 0 });
    if (mountAt(at)?.id === mount.id) break;
  }
  removeMade(attachment);
  try {
    forgetAttachment(attachment);
  } catch (error) {
    // Whoever unmounted it may have forgotten it already.
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

/** Takes down what nobody attaches or serves any more. Never fails: what cannot go now may go the next time. */
export async function sweep(): Promise<void> {
  const { attachments, bare } = listAttachments();
  for (const attachment of attachments) {
    // Whoever was attaching may have ended well since it was read: then its record is another one by now.
    if (isStale(attachment) && isUnchanged(attachment)) await takeDown(attachment, true).catch(() => {});
  }
  for (const folder of bare) {
    if (!isAbandoned(folder) || !isUnchanged({ folder })) continue;
    try {
      forgetAttachment({ folder });
    } catch {
      // Not ours to remove.
    }
  }
}

function isStale(attachment: Attachment): boolean {
  const { state, process: owner, device, own, mountPoint } = attachment;
  if (owner && !isRunning(owner)) return true;
  if (state === 'attaching') return owner === null;
  // What is mounted in another mount namespace (a container, mount_namespaces(7)) is not to be seen from here.
  if (owner && target(`/proc/${owner.pid}/ns/mnt`) !== target('/proc/self/ns/mnt')) return false;
  if (device !== null && loopsOf(attachment).length === 0) return true;
  const at = own || device !== null ? diskFolderOf(attachment) : mountPoint;
  return !listMounts().some(mount => mount.mountPoint === at);
}

/** Throws what the command says. */
function runAsof(args: readonly string[]): Promise<void> {
  return new Promise((done, failed) => {
    execFile(process.execPath, [BIN, ...args], (error: ExecFileException | null, _stdout, stderr) => {
      if (!error) return done();
      try {
        const said = JSON.parse(stderr) as { error: { code: string; message: string; hint: string } };
        const { message, hint } = said.error;
        failed(new AsofError('MOUNT_FAILED', message, hint));
      } catch {
        failed(new AsofError('MOUNT_FAILED', stderr.trim().split('\n', 1)[0] || error.message));
      }
    });
  });
}
