/**
 * Where a restore writes to, and why it must not: nobody else may have the target, it must be large enough, it is no part of
 * what is restored, and what it holds is not overwritten unless that was said.
 *
 * A block device is opened with O_EXCL and a file locked, as the origin of a volume is (src/cow/origin.ts): a mount, swap,
 * device-mapper, md, a running daemon and QEMU are in the way of that, and this of them. All is looked at before the first
 * byte is written.
 */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  realpathSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { readUpTo } from './block/file.js';
import { signatureOf } from './block/signature.js';
import { type BlockDevice, blockDevice } from './cow/block-device.js';
import { fileSystemsOn } from './cow/file-systems.js';
import { Origin } from './cow/origin.js';
import { AsofError, errnoOf } from './errors.js';
import { FS_TYPE, listMounts, type MountEntry } from './mount/mounts.js';
import { unescaped } from './mountinfo.js';
import { loadAddon } from './native.js';
import { command } from './shell.js';

export interface TargetRequest {
  /** Bytes that will be written, and what a sparse file needs of them. */
  readonly length: number;
  readonly held: number;
  /** Real paths of what is restored, and the folder of its history. */
  readonly files: readonly string[];
  readonly history: string | undefined;
  /** What it holds may go. */
  readonly force: boolean;
}

export interface Target {
  /** Absolute, without symbolic links. */
  readonly path: string;
  readonly kind: 'file' | 'device';
  /** Bytes it has now; 0 where it is not there yet. */
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly exists: boolean;
  /** What is overwritten, by name; null where nothing was found. */
  readonly holds: string | null;
}

/** Looks, and holds nothing afterwards. Throws TARGET_UNUSABLE, TARGET_BUSY, TARGET_TOO_SMALL, TARGET_OCCUPIED or IO. */
export async function inspectTarget(path: string, request: TargetRequest): Promise<Target> {
  const claimed = await claimTarget(path, request);
  claimed.close();
  return claimed.target;
}

export interface Claimed {
  readonly target: Target;
  /** Open for reading and writing; -1 where the file is not there yet. */
  readonly fd: number;
  /** Undefined where it is not there yet. */
  readonly origin: Origin | undefined;
  close(): void;
}

/** The same, and it is ours until it is closed. A file that is not there is not made yet. */
export async function claimTarget(text: string, request: TargetRequest): Promise<Claimed> {
  const path = realPath(text);
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  if (!stat) return missing(path, request);
  if (!stat.isFile() && !stat.isBlockDevice()) {
    throw new AsofError('TARGET_UNUSABLE', `${path} is neither a regular file nor a block device`);
  }
  const device = stat.isBlockDevice() ? blockDevice(stat.rdev) : undefined;
  refuseOwn(path, device, request);
  refuseInUse(path, device);
  const origin = claim(path);
  try {
    const size = origin.size;
    if (device && size < request.length) throw tooSmall(path, request.length, size);
    const read = async (offset: number, length: number) => readUpTo(origin, offset, length);
    const found = await signatureOf(read, size);
    const data = device ? false : hasData(origin.fd, size);
    const holds = found ? `${found}` : data ? 'data' : null;
    if (holds !== null && !request.force) throw occupied(path, found ? `a signature of ${found}` : 'data');
    if (!device) refuseFull(path, request.held - Number(stat.blocks) * 512);
    const { sectorSize } = origin;
    const target: Target = { path, kind: device ? 'device' : 'file', size, sectorSize, exists: true, holds };
    return { target, fd: origin.fd, origin, close: () => origin.close() };
  } catch (error) {
    origin.close();
    throw error;
  }
}

function missing(path: string, request: TargetRequest): Claimed {
  if (path === '/dev' || (path.startsWith('/dev/') && !path.startsWith('/dev/shm/'))) {
    throw new AsofError('NOT_FOUND', `there is no device ${path}`, 'lsblk lists those that there are');
  }
  const folder = dirname(path);
  if (!existsSync(folder)) throw new AsofError('NOT_FOUND', `${folder} does not exist`);
  if (request.history !== undefined && realpathSync(folder) === request.history) throw inHistory(path);
  refuseFull(path, request.held);
  const target: Target = { path, kind: 'file', size: 0, sectorSize: 512, exists: false, holds: null };
  return { target, fd: -1, origin: undefined, close() {} };
}

/** Makes the file that was not there, for ourselves alone. */
export function createTarget(path: string): { readonly fd: number; close(): void } {
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    loadAddon().lockWhole(fd);
    return { fd, close: () => closeSync(fd) };
  } catch (error) {
    throw new AsofError('IO', `cannot make ${path}: ${errnoOf(error) || String(error)}`, '', {
      cause: error,
    });
  }
}

function claim(path: string): Origin {
  try {
    return Origin.claim(path);
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    if (error.code === 'ORIGIN_BUSY') throw busy(error.message, error.hint);
    if (error.code === 'ORIGIN_UNUSABLE') throw new AsofError('TARGET_UNUSABLE', error.message, error.hint);
    throw error;
  }
}

/** Also of a file that is not there yet. */
export function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') {
      throw new AsofError('IO', `cannot look up ${path}: ${errnoOf(error)}`, '', { cause: error });
    }
    const folder = dirname(resolve(path));
    return existsSync(folder) ? join(realpathSync(folder), basename(path)) : resolve(path);
  }
}

function busy(what: string, hint = ''): AsofError {
  return new AsofError('TARGET_BUSY', what, hint);
}

export function tooSmall(path: string, need: number, has: number): AsofError {
  const what = `${path} is too small: it has ${has} bytes and ${need} are needed, ${need - has} more`;
  return new AsofError('TARGET_TOO_SMALL', what);
}

export function occupied(path: string, what: string): AsofError {
  return new AsofError('TARGET_OCCUPIED', `${path} holds ${what}`, '--force, where that may be overwritten');
}

function refuseFull(path: string, need: number): void {
  // A live file takes what its origin takes, of which its mount says nothing.
  if (mountAbove(path)?.type === FS_TYPE) return;
  const { bavail, bsize } = statfsSync(existsSync(path) ? path : dirname(path));
  const free = bavail * bsize;
  if (need <= free) return;
  const what = `the file system of ${path} has ${free} bytes left and ${need} are needed, ${need - free} more`;
  throw new AsofError('TARGET_TOO_SMALL', what);
}

function mountAbove(path: string): MountEntry | undefined {
  const real = realPath(path);
  const above = listMounts().filter(
    ({ mountPoint }) => mountPoint === '/' || real.startsWith(`${mountPoint}/`),
  );
  return above.reduce<MountEntry | undefined>(
    (nearest, one) => (nearest && nearest.mountPoint.length > one.mountPoint.length ? nearest : one),
    undefined,
  );
}

function inHistory(path: string): AsofError {
  return new AsofError(
    'TARGET_UNUSABLE',
    `${path} lies in the folder of the history`,
    'name a file elsewhere',
  );
}

/** The target is a file that is read, shows one (a loop device), or is a device that holds, or lies in, one that is read. */
function refuseOwn(path: string, device: BlockDevice | undefined, { files, history }: TargetRequest): void {
  if (history !== undefined && dirname(path) === history) throw inHistory(path);
  const own = (file: string) =>
    new AsofError('TARGET_UNUSABLE', `${path} is a part of what is read: ${file}`, 'name another target');
  const target = statSync(path, { bigint: true });
  for (const file of files) {
    const stat = statSync(file, { bigint: true });
    if (stat.dev === target.dev && stat.ino === target.ino) throw own(file);
    if (!device) continue;
    if (stat.isBlockDevice()) {
      const other = blockDevice(stat.rdev);
      const nested = other.disk === device.disk && (other.name === other.disk || device.name === device.disk);
      if (other.number === device.number || nested) throw own(file);
    }
    if (backingFile(device) === file) throw own(file);
  }
}

function backingFile(device: BlockDevice): string {
  return text(`/sys/block/${device.disk}/loop/backing_file`);
}

/** By name, before O_EXCL says only that it is refused: swap, mounts of the device, of its partitions, of loop devices on it. */
function refuseInUse(path: string, device: BlockDevice | undefined): void {
  for (const line of text('/proc/swaps').split('\n').slice(1)) {
    const swap = unescaped(line.split(/\s+/)[0] ?? '');
    if (swap !== '' && existsSync(swap) && realpathSync(swap) === path) {
      throw busy(`${path} is swap`, command`swapoff ${path}`);
    }
  }
  const mounted = device ? mountOf(device) : fileSystemsOn(path)[0]?.mountPoint;
  if (mounted) throw busy(`${path} is mounted on ${mounted}`, command`umount ${mounted}`);
}

function mountOf(device: BlockDevice): string | undefined {
  for (const line of text('/proc/self/mountinfo').split('\n')) {
    const fields = line.split(' ');
    const source = unescaped(fields[fields.indexOf('-') + 2] ?? '');
    const number = source.startsWith('/dev/') ? numberOf(source) : fields[2];
    if (number === undefined) continue;
    const folder = `/sys/dev/block/${number}`;
    // Itself, or one of its partitions.
    const hit = number === device.number || (existsSync(folder) && parentOf(folder) === device.name);
    if (hit) return unescaped(fields[4] ?? '');
  }
  return undefined;
}

function numberOf(path: string): string | undefined {
  try {
    const stat = statSync(path, { bigint: true });
    return stat.isBlockDevice() ? blockDevice(stat.rdev).number : undefined;
  } catch {
    return undefined;
  }
}

function parentOf(folder: string): string {
  return basename(dirname(realpathSync(folder)));
}

/** Whether a file holds anything but holes. */
function hasData(fd: number, size: number): boolean {
  return size > 0 && fstatSync(fd).size > 0 && loadAddon().fileExtents(fd, 0, size, 1).length > 0;
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8').trimEnd();
  } catch {
    return '';
  }
}
