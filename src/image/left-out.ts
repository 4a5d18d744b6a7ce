/**
 * What a point leaves out of the disk: runs that read as zeros whatever the source has there, since its file system does not use
 * them (used-space.ts) or they are swap (swap.ts). The content of a point is that of the source and of these runs, and of nothing
 * that came before: where they are not the base's, the difference is stored.
 *
 * Of unused space there may be a million runs: they lie in a file beside the manifest. Layout: docs/formats.md, "Unused space".
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Extent } from '../block/extent.js';
import { type BlockSource, checkRange } from '../block/source.js';
import { AsofError, errnoOf } from '../errors.js';
import { joinRuns, type Manifest, type Run } from './manifest.js';

const MAGIC = 'ASOFUNUS';
const VERSION = 1;
const HEAD = 24;
/** Bytes that runs are counted in: they are kept as far as they are whole ones. */
const UNIT = 512;
/** Runs that are left out; of more, the largest. */
const MOST_RUNS = 2 ** 20;

/** The larger ones where there are too many, as far as they are whole units. In order, apart. */
export function bounded(runs: readonly Run[], most = MOST_RUNS): Run[] {
  const whole: Run[] = [];
  for (const [start, length] of runs) {
    const from = Math.ceil(start / UNIT) * UNIT;
    const end = Math.floor((start + length) / UNIT) * UNIT;
    if (end > from) whole.push([from, end - from]);
  }
  if (whole.length <= most) return whole;
  const least = whole.map(([, length]) => length).sort((a, b) => b - a)[most - 1]!;
  let equal = most - whole.filter(([, length]) => length > least).length;
  return whole.filter(([, length]) => length > least || (length === least && equal-- > 0));
}

/** What is in one of them and not in the other. Both are in order and apart, and so is the answer. */
export function unlike(a: readonly Run[], b: readonly Run[]): Run[] {
  const edges = (runs: readonly Run[]) => runs.flatMap(([start, length]) => [start, start + length]);
  const all = Float64Array.from([...edges(a), ...edges(b)]).sort();
  const out: Run[] = [];
  // Inside an odd number of runs: from each edge to the next. Two edges at one place are none.
  for (let i = 0; i + 1 < all.length; i += 2) {
    const [from, end] = [all[i]!, all[i + 1]!];
    const last = out.at(-1);
    if (end === from) continue;
    if (last && last[0] + last[1] === from) out[out.length - 1] = [last[0], end - last[0]];
    else out.push([from, end - from]);
  }
  return out;
}

export function bytesOf(runs: readonly Run[]): number {
  return runs.reduce((sum, [, length]) => sum + length, 0);
}

/** `source`, of which `runs` read as zeros: in order, apart and within its size. */
export function leavingOut(source: BlockSource, runs: readonly Run[]): BlockSource {
  if (runs.length === 0) return source;
  return {
    ...source,
    *extents(offset, length): Generator<Extent, void, undefined> {
      checkRange(source.size, offset, length);
      const end = offset + length;
      for (let i = firstBehind(runs, offset); i < runs.length && offset < end; i++) {
        const [start, size] = runs[i]!;
        if (start >= end) break;
        if (start > offset) yield* source.extents(offset, start - offset);
        const from = Math.max(start, offset);
        const stop = Math.min(start + size, end);
        yield { kind: 'zero', length: stop - from };
        offset = stop;
      }
      if (offset < end) yield* source.extents(offset, end - offset);
    },
    close: () => source.close(),
  };
}

/** The first run that ends behind `offset`. */
export function firstBehind(runs: readonly Run[], offset: number): number {
  let [low, high] = [0, runs.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (runs[middle]![0] + runs[middle]![1] > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The file of `runs`: `bounded` ones. */
export function encodeRuns(runs: readonly Run[]): Buffer {
  const body: number[] = [];
  let at = 0;
  const number = (value: number) => {
    let left = value;
    for (; left >= 128; left = Math.floor(left / 128)) body.push((left % 128) + 128);
    body.push(left);
  };
  for (const [start, length] of runs) {
    number((start - at) / UNIT);
    number(length / UNIT);
    at = start + length;
  }
  const head = Buffer.alloc(HEAD);
  head.write(MAGIC, 'latin1');
  head.writeUInt32LE(VERSION, 8);
  head.writeUInt32LE(UNIT, 12);
  head.writeBigUInt64LE(BigInt(runs.length), 16);
  return Buffer.concat([head, Buffer.from(body)]);
}

/** `sha256` is what the file has to have. Throws HISTORY_DAMAGED, NOT_FOUND or IO. */
export function readRuns(path: string, size: number, sha256: string): Run[] {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch (error) {
    const gone = errnoOf(error) === 'ENOENT';
    const what = gone ? `${path} does not exist` : `${path} cannot be read: ${errnoOf(error)}`;
    throw new AsofError(gone ? 'NOT_FOUND' : 'IO', what, '', { cause: error });
  }
  const damaged = () => new AsofError('HISTORY_DAMAGED', `${path} is not what was written`);
  const body = file.subarray(HEAD);
  if (createHash('sha256').update(file).digest('hex') !== sha256) throw damaged();
  if (file.length < HEAD || file.toString('latin1', 0, 8) !== MAGIC || file.readUInt32LE(8) !== VERSION)
    throw damaged();
  if (file.readUInt32LE(12) !== UNIT) throw damaged();
  const count = Number(file.readBigUInt64LE(16));
  const runs: Run[] = [];
  let next = 0;
  const number = (): number => {
    for (let value = 0, factor = 1; next < body.length && factor < 2 ** 53; factor *= 128) {
      const byte = body[next++]!;
      value += (byte % 128) * factor;
      if (byte < 128) return value * UNIT;
    }
    throw damaged();
  };
  for (let at = 0; next < body.length; ) {
    const start = at + number();
    at = start + number();
    if (at <= start || at > size) throw damaged();
    runs.push([start, at - start]);
  }
  if (runs.length !== count) throw damaged();
  return runs;
}

/** Swap of a manifest, in order and apart. */
export function excludedRuns({ excluded }: { readonly excluded?: Manifest['excluded'] | undefined }): Run[] {
  return joinRuns((excluded ?? []).flatMap(({ runs }) => runs));
}
