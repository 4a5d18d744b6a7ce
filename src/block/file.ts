/**
 * An image file: the only place where a file under inspection is opened, and it is opened read-only.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, type Stats } from 'node:fs';
import { AsofError, errnoOf } from '../errors.js';

export class ImageFile {
  /** Absolute path. */
  readonly path: string;
  readonly fd: number;
  /** Bytes, when it was opened. */
  readonly size: number;
  /** When it was last written, at the time it was opened. */
  readonly modified: Date;
  #open = true;

  private constructor(path: string, fd: number, size: number, modified: Date) {
    this.path = path;
    this.fd = fd;
    this.size = size;
    this.modified = modified;
  }

  /**
   * Opens a regular file or block device. O_NONBLOCK keeps a FIFO in an image's folder from hanging us; it has no
   * effect on what we accept.
   * Throws NOT_FOUND, or IO where it cannot be opened or is something else.
   */
  static open(path: string): ImageFile {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | (constants.O_NOATIME ?? 0));
    } catch (error) {
      // O_NOATIME is for the owner and root alone (open(2)); evidence of others is then opened without it.
      if (errnoOf(error) !== 'EPERM') throw openError(path, error);
      try {
        fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      } catch (second) {
        throw openError(path, second);
      }
    }
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile() && !stat.isBlockDevice()) {
        throw new AsofError('IO', `${path} is neither a regular file nor a block device`);
      }
      const size = stat.isFile() ? stat.size : blockDeviceSize(path, stat.rdev);
      return new ImageFile(path, fd, size, modifiedAt(stat));
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /**
   * Up to `length` bytes from `offset`; fewer only where the file ends.
   * Throws IO where the operating system reports an error.
   */
  read(offset: number, length: number): Buffer {
    return readUpTo(this, offset, length);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.fd);
  }
}

/**
 * Up to `length` bytes of an open file from `offset`; fewer only where it ends, or at `size`.
 * Throws IO where the operating system reports an error.
 */
export function readUpTo(
  { fd, path, size }: { readonly fd: number; readonly path: string; readonly size: number },
  offset: number,
  length: number,
): Buffer {
  const want = Math.max(0, Math.min(length, size - offset));
  const buffer = Buffer.allocUnsafe(want);
  let done = 0;
  while (done < want) {
    let n: number;
    try {
      n = readSync(fd, buffer, done, want - done, offset + done);
    } catch (error) {
      const why = `cannot read ${path} at byte ${offset + done}: ${errnoOf(error)}`;
      throw new AsofError('IO', why, '', { cause: error });
    }
    if (n === 0) break;
    done += n;
  }
  return buffer.subarray(0, done);
}

/** Milliseconds before and after the epoch that a Date can tell (ECMA-262, 21.4.1.1). */
const FURTHEST = 8.64e15;

/** File systems keep times that no Date can tell; they are shown as the furthest that one can. */
function modifiedAt({ mtime, mtimeMs }: Stats): Date {
  return Number.isNaN(mtime.getTime()) ? new Date(Math.sign(mtimeMs) * FURTHEST) : mtime;
}

function openError(path: string, error: unknown): AsofError {
  const errno = errnoOf(error);
  if (errno === 'ENOENT') return new AsofError('NOT_FOUND', `${path} does not exist`, '', { cause: error });
  if (errno === 'EMFILE') {
    const what = `cannot open ${path}: this process has too many open files`;
    return new AsofError('IO', what, 'ulimit -n 4096, where the hard limit allows it, lets it have more', {
      cause: error,
    });
  }
  return new AsofError('IO', `cannot open ${path}: ${errno || String(error)}`, '', { cause: error });
}

/** A block device's stat has no size; sysfs has it in units of 512 bytes (Documentation/block/stat.rst). */
function blockDeviceSize(path: string, device: number): number {
  const major = ((device >> 8) & 0xfff) | (Math.floor(device / 2 ** 32) & ~0xfff);
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  try {
    return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'latin1')) * 512;
  } catch (error) {
    throw new AsofError('IO', `cannot learn the size of the block device ${path}: ${errnoOf(error)}`);
  }
}
