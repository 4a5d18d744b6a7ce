/**
 * A region: the extents around one offset, as the rows of numbers that the engine keeps (native/extent_map.h).
 *
 * The engine asks for a region when a read meets a range that it has not seen; the answer is at least the window of
 * `REGION` bytes around the offset, and as much more as costs no further row, so that a hole of terabytes is one
 * answer. A region is compiled in one go: its cost bounds the time for which a read can wait.
 */
import { CODECS, type Extent, join } from './extent.js';
import type { ImageFile } from './file.js';
import type { BlockSource } from './source.js';

/** Bytes of a window. With clusters of 512 bytes, the smallest of any format, 131,072 rows. */
export const REGION = 64 * 2 ** 20;

/** Numbers a row: kind, length, file, offset, packed length | index of the reason, codec, unpacked length, skip. */
export const ROW = 8;
export const ROW_KINDS = ['zero', 'data', 'packed', 'bad'] as const;

/** How many joinable runs a uniform region takes beyond its window: bounds the work of one answer. Each may stand for many. */
const FURTHER_RUNS = 16;

export interface Region {
  /** Where the first row begins, bytes. */
  readonly start: number;
  /** `ROW` numbers a run; the lengths say where the region ends. */
  readonly rows: Float64Array;
  /** The sentences of `bad` runs. */
  readonly reasons: readonly string[];
}

/** The region of `source` around `offset` (less than its size). `idOf` gives the engine's number of a file. */
export function compileRegion(
  source: BlockSource,
  offset: number,
  idOf: (file: ImageFile) => number,
): Region {
  const start = offset - (offset % REGION);
  const window = Math.min(REGION, source.size - start);
  const runs: Extent[] = [];
  let length = 0;
  let further = 0;
  for (const run of source.extents(start, source.size - start)) {
    const last = runs.at(-1);
    const both = last && join(last, run);
    if (length >= window && (!both || ++further > FURTHER_RUNS)) break;
    if (both) runs[runs.length - 1] = both;
    else runs.push(run);
    length += run.length;
    if (length >= window && runs.length > 1) break;
  }
  return encode(start, runs, idOf);
}

function encode(start: number, runs: readonly Extent[], idOf: (file: ImageFile) => number): Region {
  const rows = new Float64Array(runs.length * ROW);
  const reasons: string[] = [];
  runs.forEach((run, i) => {
    const row = rows.subarray(i * ROW, (i + 1) * ROW);
    row[0] = ROW_KINDS.indexOf(run.kind);
    row[1] = run.length;
    switch (run.kind) {
      case 'data':
        row[2] = idOf(run.file);
        row[3] = run.offset;
        break;
      case 'packed':
        row[2] = idOf(run.file);
        row[3] = run.offset;
        row[4] = run.packedLength;
        row[5] = CODECS.indexOf(run.codec);
        row[6] = run.unpackedLength;
        row[7] = run.skip;
        break;
      case 'bad': {
        const known = reasons.indexOf(run.why);
        row[4] = known >= 0 ? known : reasons.push(run.why) - 1;
        break;
      }
    }
  });
  return { start, rows, reasons };
}
