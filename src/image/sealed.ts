/** JSON files of a history: sealed (src/sealed-file.ts), and there whole or not at all. */
import { AsofError } from '../errors.js';
import { readSealedFile, writeSealedFile } from '../sealed-file.js';

export { writeSealedFile as writeSealed };

/** Throws NOT_FOUND, IO, or HISTORY_DAMAGED where it is not what was written. */
export function readSealed<T>(path: string, kind: string): T {
  const read = readSealedFile<T>(path, kind);
  if ('body' in read) return read.body;
  if ('damage' in read) {
    const hint = 'restore it from a copy of the folder';
    throw new AsofError('HISTORY_DAMAGED', `${path} is damaged: ${read.damage}`, hint);
  }
  const gone = read.errno === 'ENOENT';
  const what = gone ? `${path} does not exist` : `${path} cannot be read: ${read.errno}`;
  throw new AsofError(gone ? 'NOT_FOUND' : 'IO', what, '', { cause: read.cause });
}
