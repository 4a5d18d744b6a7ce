/**
 * The origin of a volume, opened for ourselves alone.
 *
 * Others are told of us, and we of them, by all that there is: flock(2) (a second asof, and by convention tools that
 * change block devices), QEMU's byte locks, O_EXCL on a block device (a mount, device-mapper, md, swap), and for a file
 * whether anybody has it open for writing at that moment (a loop device, an editor). What this cannot see is in
 * docs/tracking.md.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { readUpTo } from '../block/file.js';
import { AsofError, errnoOf } from '../errors.js';
import { unescaped } from '../mountinfo.js';
import { type Addon, loadAddon } from '../native.js';
import { command } from '../shell.js';
import { type BlockDevice, blockDevice, loopsOn } from './block-device.js';
import { lockAsQemu } from './qemu-locks.js';

export class Origin {
  /** Absolute, without symbolic links. */
  readonly path: string;
  /** Open for reading and writing. */
  readonly fd: number;
  /** Bytes, when it was opened. */
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  /** Of a block device. */
  readonly device: BlockDevice | undefined;
  #open = true;

  private constructor(path: string, fd: number, size: number, device: BlockDevice | undefined) {
    this.path = path;
    this.fd = fd;
    this.size = size;
    this.sectorSize = device?.sectorSize ?? 512;
    this.device = device;
  }

  /** `path` is canonical. Throws NOT_FOUND, IO, ORIGIN_BUSY or ORIGIN_UNUSABLE. */
  static open(path: string): Origin {
    const origin = Origin.claim(path);
    const { device, sectorSize, size } = origin;
    if (size > 0 && size % sectorSize === 0) return origin;
    origin.close();
    throw new AsofError(
      'ORIGIN_UNUSABLE',
      size === 0
        ? `${path} is empty; a volume has a size, which it keeps`
        : `${path} has ${size} bytes, which is no whole number of ${sectorSize}-byte sectors`,
      size === 0 || device ? '' : command`truncate -s %${sectorSize} ${path}, which adds zeros at its end`,
    );
  }

  /** The same, of any size: for who writes all of it. */
  static claim(path: string): Origin {
    const addon = loadAddon();
    const reader = openAs(path, constants.O_RDONLY);
    let fd = -1;
    try {
      const stat = fstatSync(reader, { bigint: true });
      const device = stat.isBlockDevice() ? blockDevice(stat.rdev) : undefined;
      if (!device && !stat.isFile()) {
        throw new AsofError('ORIGIN_UNUSABLE', `${path} is neither a regular file nor a block device`);
      }
      if (device) refuseHeld(path, device);
      else refuseWritten(addon, path, reader);
      fd = openAs(path, constants.O_RDWR | (device ? constants.O_EXCL : 0), device);
      const again = fstatSync(fd, { bigint: true });
      if (again.dev !== stat.dev || again.ino !== stat.ino) {
        throw new AsofError('ORIGIN_BUSY', `${path} was replaced while it was opened`);
      }
      lock(addon, path, fd);
      return new Origin(path, fd, device ? device.size : Number(again.size), device);
    } catch (error) {
      if (fd >= 0) closeSync(fd);
      throw error;
    } finally {
      closeSync(reader);
    }
  }

  /** Up to `length` bytes from `offset`; fewer where it ends. Throws IO. */
  read(offset: number, length: number): Buffer {
    return readUpTo(this, offset, length);
  }

  /** Gives every lock back. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.fd);
  }
}

function openAs(path: string, flags: number, device?: BlockDevice): number {
  try {
    return openSync(path, flags | constants.O_NONBLOCK);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') throw new AsofError('NOT_FOUND', `${path} does not exist`, '', { cause: error });
    if (errno === 'EBUSY' && device) throw busy(path, claimant(device));
    throw new AsofError('IO', `cannot open ${path}: ${errno || String(error)}`, '', { cause: error });
  }
}

function busy(path: string, why: string, hint = ''): AsofError {
  return new AsofError('ORIGIN_BUSY', `${path} is in use: ${why}`, hint);
}

/** Who has claimed the device: O_EXCL has just been refused. */
function claimant(device: BlockDevice): string {
  const mounted = mountedAt(device);
  if (mounted) return `it is mounted on ${mounted}`;
  if (device.holders.length > 0)
    return `it is part of ${device.holders.map(name => `/dev/${name}`).join(', ')}`;
  return 'another program has claimed it';
}

/** A partition of a disk may be mounted, or the disk of a partition claimed: O_EXCL knows the first, sysfs the second. */
function refuseHeld(path: string, device: BlockDevice): void {
  const mounted = mountedAt(device);
  if (mounted) throw busy(path, `it is mounted on ${mounted}`, command`umount ${mounted}`);
  if (device.holders.length > 0)
    throw busy(path, `it is part of ${device.holders.map(name => `/dev/${name}`).join(', ')}`);
}

function mountedAt(device: BlockDevice): string | undefined {
  try {
    for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
      const fields = line.split(' ');
      // A btrfs has a number of its own; its source names the device.
      const source = fields[fields.indexOf('-') + 2];
      if (fields[2] === device.number || source === `/dev/${device.name}`) return unescaped(fields[4]!);
    }
  } catch {
    // No /proc: O_EXCL decides.
  }
  return undefined;
}

function refuseWritten(addon: Addon, path: string, reader: number): void {
  const loops = loopsOn(path);
  if (loops.length > 0) throw busy(path, `${loops.join(', ')} shows it`, command`losetup -d ${loops[0]!}`);
  let written: boolean;
  try {
    written = addon.hasWriter(reader);
  } catch {
    return; // A file system without leases, or a file of somebody else's.
  }
  if (written) throw busy(path, 'a program has it open for writing', command`fuser -v ${path}`);
}

function lock(addon: Addon, path: string, fd: number): void {
  let why: string | undefined;
  try {
    why = addon.lockWhole(fd)
      ? lockAsQemu(addon, fd)
      : 'another asof, or a program that changes it, has locked it';
  } catch (error) {
    throw new AsofError(
      'ORIGIN_UNUSABLE',
      `${path} cannot be locked: ${errnoOf(error) || String(error)}`,
      '',
      { cause: error },
    );
  }
  if (why !== undefined) throw busy(path, why);
}
