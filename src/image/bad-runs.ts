/**
 * What of a point of a history could not be read when it was made. Its image holds zeros there, for whoever reads it alone; to
 * us these are errors, also where the image is opened by itself.
 */
import { basename } from 'node:path';
import type { Extent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { type BlockSource, checkRange } from '../block/source.js';
import { AsofError } from '../errors.js';
import { type Run, readManifest } from './manifest.js';

const BAD = 'the source could not be read here when the backup was made';

/** `source`, of which `runs` are known to be bad: in order, apart, within its size. */
export function withBad(source: BlockSource, runs: readonly Run[]): BlockSource {
  if (runs.length === 0) return source;
  return {
    ...source,
    *extents(offset, length): Generator<Extent, void, undefined> {
      checkRange(source.size, offset, length);
      const end = offset + length;
      for (const [start, size] of runs) {
        if (start + size <= offset) continue;
        if (start >= end) break;
        if (start > offset) yield* source.extents(offset, start - offset);
        const from = Math.max(start, offset);
        const stop = Math.min(start + size, end);
        yield { kind: 'bad', length: stop - from, why: BAD };
        offset = stop;
      }
      if (offset < end) yield* source.extents(offset, end - offset);
    },
  };
}

/** Those that the manifest beside an image lists: of an image without one, or with one that is not its own, none. */
export function badRunsBeside(image: ImageFile): readonly Run[] {
  const stem = image.path.replace(/\.qcow2$/, '');
  if (stem === image.path) return [];
  try {
    const { bad, disk, image: own } = readManifest(`${stem}.json`);
    if (own.file !== basename(image.path)) return [];
    return bad.runs.filter(([start, length]) => start >= 0 && length > 0 && start + length <= disk.size);
  } catch (error) {
    if (error instanceof AsofError) return [];
    throw error;
  }
}
