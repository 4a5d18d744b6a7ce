/**
 * State on disk as JSON: replaced atomically (temporary file, fsync, rename, fsync of the folder) and sealed with a
 * SHA-256 of its body, so that what is read back is what was written, or is known to be damaged. docs/formats.md.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { syncFolder } from '../sync-folder.js';

const VERSION = 1;

/** What stands in a state file: its body, or in words why nothing of it may be believed. */
export type StateRead<T> = { readonly body: T } | { readonly trouble: string; readonly missing: boolean };

/** Reads the state file of `kind`. Never throws: whatever is wrong is a trouble. */
export function readState<T>(path: string, kind: string): StateRead<T> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const missing = errnoOf(error) === 'ENOENT';
    return { trouble: missing ? `${path} is missing` : `${path} cannot be read: ${errnoOf(error)}`, missing };
  }
  const damaged = (how: string) => ({ trouble: `${path} is damaged: ${how}`, missing: false });
  let file: Record<string, unknown>;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null) return damaged('it is no object');
    file = parsed as Record<string, unknown>;
  } catch {
    return damaged('it is not JSON');
  }
  if (file['asof'] !== kind) return damaged(`it is no ${kind}`);
  if (file['version'] !== VERSION)
    return damaged(`its version is ${String(file['version'])}, known is ${VERSION}`);
  if (file['sha256'] !== seal(file['body'])) return damaged('its checksum does not match');
  return { body: file['body'] as T };
}

/** Throws IO; then the file is what it was before. */
export function writeState(path: string, kind: string, body: unknown): void {
  const temporary = `${path}.new`;
  try {
    const text = JSON.stringify({ asof: kind, version: VERSION, sha256: seal(body), body }, null, 1);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
    const fd = openSync(temporary, flags, 0o600);
    try {
      const bytes = Buffer.from(`${text}\n`);
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
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

/** JSON.stringify keeps the order of keys through a parse, so that the text is the same again. */
function seal(body: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(body) ?? '')
    .digest('hex');
}
