/** Files of the state directory: sealed (src/sealed-file.ts). Whatever is wrong with one is a trouble that others survive. */
import { unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { readSealedFile, writeSealedFile } from '../sealed-file.js';
import { syncFolder } from '../sync-folder.js';

/** What stands in a state file: its body, or in words why nothing of it may be believed. */
export type StateRead<T> = { readonly body: T } | { readonly trouble: string; readonly missing: boolean };

/** Reads the state file of `kind`. Never throws: whatever is wrong is a trouble. */
export function readState<T>(path: string, kind: string): StateRead<T> {
  const read = readSealedFile<T>(path, kind);
  if ('body' in read) return read;
  if ('damage' in read) return { trouble: `${path} is damaged: ${read.damage}`, missing: false };
  const missing = read.errno === 'ENOENT';
  return { trouble: missing ? `${path} is missing` : `${path} cannot be read: ${read.errno}`, missing };
}

/** Throws IO; then the file is what it was before. */
export function writeState(path: string, kind: string, body: unknown): void {
  try {
    writeSealedFile(path, `${path}.new`, kind, body);
  } catch (error) {
    throw new AsofError('IO', `cannot write ${path}: ${errnoOf(error) || String(error)}`, '', {
      cause: error,
    });
  }
}

/** Removes it; a missing one is no error. */
export function removeState(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    return;
  }
  syncFolder(dirname(path));
}
