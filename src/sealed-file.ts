/**
 * Our JSON on disk: replaced atomically (temporary file, fsync, rename, fsync of the folder) and sealed with a SHA-256 of its
 * body, so that what is read back is what was written, or is known to be damaged. docs/formats.md. The state directory's files
 * (src/cow/state-file.ts) and a history's (src/image/sealed.ts) are such.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf } from './errors.js';
import { syncFolder } from './sync-folder.js';

const VERSION = 1;

/** Its body; or the errno's name where it cannot be read; or why nothing of it may be believed, in words behind "it". */
export type SealedRead<T> =
  | { readonly body: T }
  | { readonly errno: string; readonly cause: unknown }
  | { readonly damage: string };

/** Reads the file of `kind`. Never throws. */
export function readSealedFile<T>(path: string, kind: string): SealedRead<T> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    return { errno: errnoOf(cause) || String(cause), cause };
  }
  let file: Record<string, unknown>;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null) return { damage: 'it is no object' };
    file = parsed as Record<string, unknown>;
  } catch {
    return { damage: 'it is not JSON' };
  }
  if (file['asof'] !== kind) return { damage: `it is no ${kind}` };
  if (file['version'] !== VERSION) {
    return { damage: `its version is ${String(file['version'])}, known is ${VERSION}` };
  }
  if (file['sha256'] !== sealOf(file['body'])) return { damage: 'its checksum does not match' };
  return { body: file['body'] as T };
}

/**
 * Writes `body` to `temporary`, then gives it the name `path`, on stable storage. Throws what the calls throw; then `path`
 * is what it was before.
 */
export function writeSealedFile(path: string, temporary: string, kind: string, body: unknown): void {
  const text = JSON.stringify({ asof: kind, version: VERSION, sha256: sealOf(body), body }, null, 1);
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
}

/** JSON.stringify keeps the order of keys through a parse, so that the text is the same again. */
function sealOf(body: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(body) ?? '')
    .digest('hex');
}
