/** Writing that Node's fs leaves to its callers: all bytes of a piece, and a folder's names on stable storage. */
import { closeSync, constants, fsyncSync, openSync, writeSync } from 'node:fs';

/** All of `bytes`, whatever write(2) takes at once. */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, bytes.length - at, offset + at);
  }
}

/** Names in a folder are on stable storage only when the folder is. */
export function syncFolder(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
