/**
 * The parts of a table that are worth reading: tables of sparse disks are little but holes, and may be half a gigabyte. What the
 * file system says to be a hole is zeros by its definition.
 */
import type { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';

/** The `length` bytes from `offset` in parts of `part` bytes, without those of which the file holds nothing. */
export function* heldParts(
  file: ImageFile,
  offset: number,
  length: number,
  part: number,
): Generator<{ readonly offset: number; readonly length: number }, void, undefined> {
  const end = Math.min(offset + length, file.size);
  let at = offset;
  while (at < end) {
    const skip = firstData(file, at, end);
    if (skip === undefined) return;
    // Parts stay where they would be without holes, so that entries are not cut in two.
    at += Math.floor((skip - at) / part) * part;
    yield { offset: at, length: Math.min(part, end - at) };
    at += part;
  }
}

function firstData(file: ImageFile, from: number, end: number): number | undefined {
  let at = from;
  for (const run of rawLayer(file).extents(from, end - from)) {
    if (run.kind !== 'zero') return at;
    at += run.length;
  }
  return undefined;
}
