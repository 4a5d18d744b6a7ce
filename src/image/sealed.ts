/**
 * JSON files of a history: sealed with a SHA-256 of their body, and written so that they are there whole or not at all.
 * The seal is that of the state directory's files (docs/formats.md).
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, fsyncSync, openSync, readFileSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { syncFolder } from '../sync-folder.js';
import { writeAt } from './write.js';

const VERSION = 1;

/** Throws NOT_FOUND, IO, or HISTORY_DAMAGED where it is not what was written. */
export function readSealed<T>(path: string, kind: string): T {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const gone = errnoOf(error) === 'ENOENT';
    const what = gone ? `${path} does not exist` : `${path} cannot be read: ${errnoOf(error)}`;
    throw new AsofError(gone ? 'NOT_FOUND' : 'IO', what, '', { cause: error });
  }
  const damaged = (how: string) =>
    new AsofError('HISTORY_DAMAGED', `${path} is damaged: ${how}`, 'restore it from a copy of the folder');
  let file: Record<string, unknown>;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null) throw new SyntaxError();
    file = parsed as Record<string, unknown>;
  } catch {
    throw damaged('it is not JSON');
  }
  if (file['asof'] !== kind) throw damaged(`it is no ${kind}`);
  if (file['version'] !== VERSION) {
    throw damaged(`its version is ${String(file['version'])}, known is ${VERSION}`);
  }
  if (file['sha256'] !== sealOf(file['body'])) throw damaged('its checksum does not match');
  return file['body'] as T;
}

/**
 * Writes `body` to `temporary`, then gives it the name `path`, on stable storage. Throws what the calls throw; then `path`
 * is what it was before.
 */
export function writeSealed(path: string, temporary: string, kind: string, body: unknown): void {
  const text = JSON.stringify({ asof: kind, version: VERSION, sha256: sealOf(body), body }, null, 1);
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
  const fd = openSync(temporary, flags, 0o600);
  try {
    writeAt(fd, Buffer.from(`${text}\n`), 0);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  syncFolder(dirname(path));
}

/** JSON.stringify keeps the order of keys through a parse, so that the text is the same again. */
function sealOf(body: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(body) ?? '')
    .digest('hex');
}
