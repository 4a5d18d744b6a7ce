/**
 * A map of AFF4: which run of the disk lies where in which stream (AFF4 Standard 1.0). Some streams are no data but words: zeros, a
 * byte over and over, what could not be read, what nobody looked at. The last two are errors here, as they are no bytes of the disk.
 */
import type { LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import type { Aff4Stream } from './aff4-stream.js';
import { firstBehind } from './sorted-ends.js';

const ENTRY = 28;

/** Where a run may lead. */
export type Target =
  | { readonly kind: 'stream'; readonly stream: Aff4Stream }
  | { readonly kind: 'zero' }
  /** Every byte is the same: the `file` has it at `at`. */
  | { readonly kind: 'fill'; readonly file: ImageFile; readonly at: number }
  | { readonly kind: 'bad'; readonly why: string };

/** Runs in their order, in columns. */
export interface Runs {
  readonly count: number;
  readonly start: Float64Array;
  readonly end: Float64Array;
  readonly offset: Float64Array;
  readonly target: Uint32Array;
}

/** The runs of a map; a sentence where they cannot be believed. */
export function runsIn(bytes: Buffer, size: number, targets: number): Runs | string {
  const count = bytes.length / ENTRY;
  if (!Number.isInteger(count)) return `it has ${bytes.length} bytes, which is no number of entries`;
  const number = (i: number, field: number) => Number(bytes.readBigUInt64LE(i * ENTRY + field));
  const starts = new Float64Array(count).map((_, i) => number(i, 0));
  const order = new Uint32Array(count).map((_, i) => i);
  if (starts.some((start, i) => i > 0 && start < starts[i - 1]!))
    order.sort((a, b) => starts[a]! - starts[b]!);
  const column = (of: (i: number) => number) => Float64Array.from(order, of);
  const runs = {
    count,
    start: column(i => starts[i]!),
    end: column(i => starts[i]! + number(i, 8)),
    offset: column(i => number(i, 16)),
    target: Uint32Array.from(order, i => bytes.readUInt32LE(i * ENTRY + 24)),
  };
  for (let i = 0; i < count; i++) {
    if (runs.end[i]! > size || runs.end[i] === runs.start[i])
      return `a run ends at byte ${runs.end[i]}, the disk at ${size}`;
    if (i > 0 && runs.start[i]! < runs.end[i - 1]!) return `two runs claim the byte ${runs.start[i]}`;
    if (!Number.isSafeInteger(runs.offset[i]! + size) || runs.target[i]! >= targets)
      return 'a run leads nowhere';
  }
  return runs;
}

export class Aff4Map implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #runs: Runs;
  readonly #targets: readonly Target[];
  readonly #gap: Target;

  constructor(file: ImageFile, size: number, runs: Runs, targets: readonly Target[], gap: Target) {
    this.size = size;
    this.#file = file;
    this.#runs = runs;
    this.#targets = targets;
    this.#gap = gap;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const { start, end: ends, offset: offsets, target, count } = this.#runs;
    for (let i = firstBehind(ends, offset); offset < end; i++) {
      const next = i < count ? Math.max(offset, Math.min(end, start[i]!)) : end;
      if (next > offset) yield* this.#run(this.#gap, offset, next - offset);
      offset = next;
      if (offset >= end) return;
      const stop = Math.min(end, ends[i]!);
      yield* this.#run(this.#targets[target[i]!]!, offsets[i]! + offset - start[i]!, stop - offset);
      offset = stop;
    }
  }

  *#run(target: Target, offset: number, length: number): Generator<LayerExtent, void, undefined> {
    const file = this.#file;
    if (target.kind === 'stream') yield* target.stream.extents(offset, length);
    else if (target.kind === 'zero') yield { kind: 'zero', length, by: file };
    else if (target.kind === 'bad') yield { kind: 'bad', length, why: target.why, by: file };
    else {
      // Pieces of a size that a reader unpacks at once.
      for (let left = length; left > 0; left -= PIECE) {
        const piece = Math.min(left, PIECE);
        const at = { file: target.file, offset: target.at, packedLength: 1 };
        yield { kind: 'packed', length: piece, ...at, codec: 'pattern', unpackedLength: PIECE, skip: 0 };
      }
    }
  }
}

const PIECE = 65_536;
