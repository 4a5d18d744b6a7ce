/**
 * File systems that tell where the blocks of each file lie (FIEMAP, FIBMAP): the tree is walked once, and each file and folder
 * is asked. Symbolic links and special files have nothing but their inode, which is metadata.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { AsofError, errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import type { Largest } from './largest.js';
import type { Place } from './owners.js';
import type { ChangedRuns } from './runs.js';

/** Runs of one file that are looked at, and files, before it is said that the rest was not. */
const MOST_RUNS = 2 ** 20;
const MOST_FILES = 20_000_000;

/** How many names of what could not be asked are told. */
const NAMED = 3;

export async function blockOwners(
  { root, signal }: Place,
  changed: ChangedRuns,
  largest: Largest,
  notes: string[],
): Promise<void> {
  const { filePlaces } = loadAddon();
  const linked = new Set<bigint>();
  const silent: string[] = [];
  let unasked = 0;
  let seen = 0;
  const miss = (path: Buffer, error: unknown) => {
    const errno = errnoOf(error);
    if (!errno) throw error;
    if (unasked++ < NAMED) silent.push(`${shown(path)} (${errno})`);
  };
  const ask = (path: Buffer, folder: boolean) => {
    let places: Float64Array;
    const fd = openSync(within(root, path), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      places = filePlaces(fd, MOST_RUNS);
    } finally {
      closeSync(fd);
    }
    let bytes = 0;
    for (let i = 0; i < places.length; i += 2) bytes += changed.within(places[i]!, places[i + 1]!);
    if (bytes > 0) largest.add(`${shown(path)}${folder && path.length > 1 ? '/' : ''}`, bytes);
  };
  const waiting: Buffer[] = [Buffer.from('/')];
  for (let path = waiting.pop(); path !== undefined && seen < MOST_FILES; path = waiting.pop()) {
    if (signal?.aborted) throw new AsofError('RESTORE_FAILED', 'it was stopped');
    try {
      ask(path, true);
    } catch (error) {
      // Folders of FAT are not told of; they are metadata then.
      if (!['EOPNOTSUPP', 'ENOTTY', 'EINVAL'].includes(errnoOf(error))) miss(path, error);
    }
    try {
      for (const entry of await readdir(within(root, path), { withFileTypes: true, encoding: 'buffer' })) {
        const full = below(path, entry.name);
        seen++;
        if (entry.isDirectory()) waiting.push(full);
        if (!entry.isFile()) continue;
        try {
          const { nlink, ino } = await lstat(within(root, full), { bigint: true });
          if (nlink > 1n && linked.has(ino)) continue;
          if (nlink > 1n) linked.add(ino);
          ask(full, false);
        } catch (error) {
          miss(full, error);
        }
      }
    } catch (error) {
      miss(path, error);
    }
  }
  if (unasked > 0) {
    notes.push(`of ${unasked} files or folders it is not known where they lie: ${silent.join(', ')}`);
  }
  if (seen >= MOST_FILES) notes.push(`only the first ${seen} files were looked at`);
}

function within(root: string, path: Buffer): Buffer {
  return Buffer.concat([Buffer.from(root), path]);
}

function below(folder: Buffer, name: Buffer): Buffer {
  return Buffer.concat([folder, Buffer.from(folder.length > 1 ? '/' : ''), name]);
}

const shown = (path: Buffer) => path.toString();
