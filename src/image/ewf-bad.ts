/** The sectors that an acquiry could not read, as EWF images of both versions list them: errors in what is shown. */
import type { LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';

const NOT_ACQUIRED = 'it could not be read when the image was made: the image says so itself';

/** Runs of bytes (start and end alternate), in order and joined, from runs of sectors (first and count alternate). */
export function badRuns(sectors: readonly number[], sectorSize: number, size: number): number[] {
  const runs: [number, number][] = [];
  for (let i = 0; i < sectors.length; i += 2) {
    const start = Math.min(sectors[i]! * sectorSize, size);
    const end = Math.min(start + sectors[i + 1]! * sectorSize, size);
    if (end > start) runs.push([start, end]);
  }
  runs.sort((a, b) => a[0] - b[0]);
  const joined: number[] = [];
  for (const [start, end] of runs) {
    const last = joined.length - 1;
    if (last > 0 && joined[last]! >= start) joined[last] = Math.max(joined[last]!, end);
    else joined.push(start, end);
  }
  return joined;
}

export function countBad(sectors: readonly number[]): number {
  return sectors.reduce((sum, value, i) => sum + (i % 2 ? value : 0), 0);
}

/** The runs of [offset, end): what lies between those in `bad` is asked of `sound`. */
export function* aroundBad(
  bad: readonly number[],
  file: ImageFile,
  offset: number,
  end: number,
  sound: (offset: number, end: number) => Iterable<LayerExtent>,
): Generator<LayerExtent, void, undefined> {
  for (let i = firstBehind(bad, offset); offset < end; i += 2) {
    const stop = Math.max(offset, Math.min(end, bad[i] ?? end));
    yield* sound(offset, stop);
    offset = Math.min(end, bad[i + 1] ?? end);
    if (offset > stop) yield { kind: 'bad', length: offset - stop, why: NOT_ACQUIRED, by: file };
  }
}

/** The index of the first pair whose end lies behind `offset`. */
function firstBehind(pairs: readonly number[], offset: number): number {
  let low = 0;
  let high = pairs.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pairs[middle * 2 + 1]! > offset) high = middle;
    else low = middle + 1;
  }
  return low * 2;
}
