/**
 * The files of a volume beside its origin: the store and the tracker. Each is locked, for two writers would destroy it. A
 * store may be a file that does not exist yet, a block device that begins with zeros, or memory.
 */
import { closeSync, constants, fstatSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import { command } from '../shell.js';

/** Bytes at the start of a block device that say whose it is. */
const HEAD = 4096;

/** Makes it. Throws STORE_UNUSABLE. */
export function createStore(path: string): number {
  const device = openDevice(path);
  if (device !== undefined) {
    const head = Buffer.alloc(HEAD);
    readSync(device, head, 0, HEAD, 0);
    if (head.every(byte => byte === 0)) return locked(device, path);
    closeSync(device);
    throw unusable(path, 'the device holds data', command`wipefs -a ${path}, if none of it is wanted`);
  }
  try {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    return locked(openSync(path, flags, 0o600), path);
  } catch (error) {
    if (error instanceof AsofError) throw error;
    const errno = errnoOf(error);
    if (errno === 'EEXIST') {
      throw unusable(path, 'something lies there already', 'name a path at which nothing lies yet', error);
    }
    if (errno === 'ENOENT') {
      const folder = dirname(path);
      throw unusable(path, `the folder ${folder} does not exist`, command`mkdir -p ${folder}`, error);
    }
    throw unusable(path, errno || String(error), '', error);
  }
}

/** Opens what was made. A missing one is made anew, empty, which the engine knows for lost. Throws STORE_UNUSABLE. */
export function openStore(path: string): number {
  const device = openDevice(path);
  if (device !== undefined) return locked(device, path);
  try {
    return locked(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600), path);
  } catch (error) {
    if (error instanceof AsofError) throw error;
    throw unusable(path, errnoOf(error) || String(error), '', error);
  }
}

/** Takes it away; of a device, what says that it is a store. */
export function removeStore(path: string): void {
  const device = openDevice(path);
  if (device !== undefined) {
    writeSync(device, Buffer.alloc(HEAD), 0, HEAD, 0);
    closeSync(device);
    return;
  }
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw unusable(path, errnoOf(error), '', error);
  }
}

/** The descriptor of a block device; undefined where it is something else. */
function openDevice(path: string): number | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  } catch {
    return undefined;
  }
  const device = fstatSync(fd).isBlockDevice();
  closeSync(fd);
  if (!device) return undefined;
  try {
    return openSync(path, constants.O_RDWR | constants.O_EXCL);
  } catch (error) {
    throw unusable(path, errnoOf(error) === 'EBUSY' ? 'it is in use' : errnoOf(error), '', error);
  }
}

function locked(fd: number, path: string): number {
  let holder: string;
  try {
    holder = loadAddon().lockOrHolder(fd);
  } catch (error) {
    closeSync(fd);
    throw unusable(path, `it cannot be locked (${errnoOf(error)})`, '', error);
  }
  if (holder === '') return fd;
  closeSync(fd);
  throw unusable(path, `it is locked by ${holder}`, holderHint(holder));
}

/** What to do about whoever has a file: `text` names a process as native/cow_lock.h does. */
export function holderHint(text: string): string {
  const pid = /process \(?(\d+)/.exec(text)?.[1];
  if (pid === undefined) return 'find who has it: lslocks, also in other containers and on other hosts';
  return `end it, or wait until it has ended; where it hangs: ps -L -o pid,lwp,stat,wchan:32,comm -p ${pid}`;
}

function unusable(path: string, why: string, hint = '', cause?: unknown): AsofError {
  return new AsofError('STORE_UNUSABLE', `cannot use ${path} as a store: ${why}`, hint, { cause });
}
