/** Reading and writing that Node's fs leaves to its callers: all bytes of a piece. */
import { readSync, writeSync } from 'node:fs';

/** All of `bytes`, whatever write(2) takes at once. */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, bytes.length - at, offset + at);
  }
}

/** Zeros behind the end of the file. */
export function readAt(fd: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const got = readSync(fd, bytes, at, length - at, offset + at);
    if (got === 0) break;
    at += got;
  }
  return bytes;
}
