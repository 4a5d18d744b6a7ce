/**
 * A plain file as a layer: the holes that the file system reports are runs of zeros; without the addon, which asks for
 * them, all is data.
 */
import { loadAddon } from '../native.js';
import type { LayerExtent } from './extent.js';
import type { ImageFile } from './file.js';
import { checkRange, type Layer } from './source.js';

/**
 * Runs of data that the first look-up of a walk asks for, and at most a later one: most callers want the runs around one place,
 * and each costs two calls of the kernel, which on a mount are two questions to its server.
 */
const FIRST_RUNS = 4;
const RUNS = 256;

/** The bytes of `file` as a layer, holes as zeros. */
export function rawLayer(file: ImageFile): Layer {
  return {
    size: file.size,
    extents(offset, length) {
      checkRange(file.size, offset, length);
      return walk(file, offset, offset + length);
    },
    close() {},
  };
}

function* walk(file: ImageFile, offset: number, end: number): Generator<LayerExtent, void, undefined> {
  for (let limit = FIRST_RUNS; offset < end; limit = Math.min(RUNS, limit * 4)) {
    const runs = dataRuns(file, offset, end - offset, limit);
    for (let i = 0; i < runs.length; i += 2) {
      const start = Math.max(offset, runs[i]!);
      const stop = Math.min(end, runs[i]! + runs[i + 1]!);
      if (start > offset) yield { kind: 'zero', length: start - offset, by: file };
      if (stop > start) yield { kind: 'data', length: stop - start, file, offset: start };
      offset = Math.max(offset, stop);
    }
    // Fewer runs than asked for: there is no more data.
    if (runs.length >= limit * 2) continue;
    if (offset < end) yield { kind: 'zero', length: end - offset, by: file };
    return;
  }
}

/** Start and length of each run of data, alternating; at most `limit`. Where that cannot be told, the reads fail or do not. */
function dataRuns(file: ImageFile, offset: number, length: number, limit: number): ArrayLike<number> {
  const extents = hasAddon() ? loadAddon().fileExtents : undefined;
  try {
    return extents ? extents(file.fd, offset, length, limit) : [offset, length];
  } catch {
    return [offset, length];
  }
}

let addon: boolean | undefined;

function hasAddon(): boolean {
  if (addon === undefined) {
    try {
      loadAddon();
      addon = true;
    } catch {
      addon = false;
    }
  }
  return addon;
}
