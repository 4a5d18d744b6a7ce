/** Names in a folder are on stable storage only when the folder is. */
import { closeSync, constants, fsyncSync, openSync } from 'node:fs';

/** Waits for the disk. Throws an errno. */
export function syncFolder(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
