/**
 * A disk in equal blocks, each where one entry of a table says: what VHD, VDI and VHDX have in common. The format tells
 * the place of a block; here places become runs, and a place that two blocks claim is nobody's.
 *
 * The table is read when a walk comes to it. Before the first block of data is believed, the whole table is looked
 * through once for claims of one place: a table without checksums has no other guard against a wrong entry.
 */
import { joined, type LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { sorted, within } from './claims.js';
import type { Finding } from './finding.js';

/** Where a block is. `mixed`: of its sectors some are in the file and others in the parent. */
export type Place =
  | { readonly kind: 'absent' }
  | { readonly kind: 'zero' }
  | { readonly kind: 'bad'; readonly why: string }
  /** The byte in the file at which the block begins. */
  | { readonly kind: 'data' | 'mixed'; readonly offset: number };

export const ABSENT: Place = { kind: 'absent' };
export const ZERO: Place = { kind: 'zero' };

export interface BlockTable {
  readonly file: ImageFile;
  /** Bytes of the disk, and of a block. */
  readonly size: number;
  readonly blockSize: number;
  /** The byte of the file at which a block must end: its end, or that of the last structure. */
  readonly end: number;
  place(index: number): Place;
  /**
   * The first block from `index` on, at most `last`, whose entry is not the empty one: what most of a sparse disk is
   * should cost no call of `place` each. May stop early.
   */
  firstUsed(index: number, last: number): number;
  /** Of a mixed block: a bit for each of its sectors, set where the file holds it; or why it cannot be known. */
  bits?(index: number): SectorBits | string;
  /** What each entry claims of the file, in `unit`; entries that claim nothing are left out. */
  readonly claims: Claims;
}

export interface SectorBits {
  readonly sectorSize: number;
  isHere(sector: number): boolean;
}

export interface Claims {
  /** Units that one claim takes. */
  readonly span: number;
  /** The first units of all claims, in any order, in arrays that hold good until the next is asked for. */
  all(): Iterable<Uint32Array>;
  of(index: number): number;
  /** Bitmaps that lie apart from the blocks take one unit each: the first ones of all, and that of a block. */
  bitmaps?(): Iterable<Uint32Array>;
  bitmapOf?(index: number): number;
}

/** Blocks that one run crosses: bounds what a caller pays who wants the first run only. */
const STRIDE = 65536;

/** Runs that the doctor looks at. */
const MOST_RUNS = 2 ** 26;

const TWICE = 'the block lies where another block lies';
const GONE = 'the block lies beyond the end of the file';

export class BlockLayer implements Layer {
  readonly size: number;
  readonly #table: BlockTable;
  #blocks: Uint32Array | undefined;
  #bitmaps: Uint32Array | undefined;

  constructor(table: BlockTable) {
    this.size = table.size;
    this.#table = table;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const { blockSize, file } = this.#table;
    while (offset < end) {
      const index = Math.floor(offset / blockSize);
      const last = Math.min(index + STRIDE, Math.ceil(end / blockSize));
      const place = this.#table.place(index);
      let next = index + 1;
      if (place.kind === 'absent' || place.kind === 'zero') {
        next = Math.max(next, this.#emptyUntil(index, last, place.kind));
      }
      const stop = Math.min(end, next * blockSize);
      const length = stop - offset;
      if (place.kind === 'absent') yield { kind: 'absent', length };
      else if (place.kind === 'zero') yield { kind: 'zero', length, by: file };
      else if (place.kind === 'bad') yield { kind: 'bad', length, why: place.why, by: file };
      else if (this.#isTwice(index)) yield { kind: 'bad', length, why: TWICE, by: file };
      else yield* this.#block(index, place.kind, place.offset, offset - index * blockSize, length);
      offset = stop;
    }
  }

  /** The first block from `index` on that is not as empty as block `index`. */
  #emptyUntil(index: number, last: number, kind: 'absent' | 'zero'): number {
    const empty = this.#table.firstUsed(index, last);
    if (empty > index) return empty;
    let next = index + 1;
    while (next < last && this.#table.place(next).kind === kind) next++;
    return next;
  }

  *#block(
    index: number,
    kind: 'data' | 'mixed',
    start: number,
    skip: number,
    length: number,
  ): Generator<LayerExtent, void, undefined> {
    const { file } = this.#table;
    if (this.#isCutOddly(index, start)) {
      yield { kind: 'bad', length, why: 'the block runs into the end of the file', by: file };
      return;
    }
    if (kind === 'data') {
      yield* this.#held(start + skip, length);
      return;
    }
    const bits = this.#bitmapIsTwice(index)
      ? 'the bitmap of the block lies where something else lies'
      : this.#table.bits!(index);
    if (typeof bits === 'string') {
      yield { kind: 'bad', length, why: bits, by: file };
      return;
    }
    const end = skip + length;
    while (skip < end) {
      let sector = Math.floor(skip / bits.sectorSize);
      const here = bits.isHere(sector);
      do sector++;
      while (sector * bits.sectorSize < end && bits.isHere(sector) === here);
      const stop = Math.min(end, sector * bits.sectorSize);
      if (here) yield* this.#held(start + skip, stop - skip);
      else yield { kind: 'absent', length: stop - skip };
      skip = stop;
    }
  }

  /** Bytes of the file, as far as it has them. */
  *#held(offset: number, length: number): Generator<LayerExtent, void, undefined> {
    const { file, end } = this.#table;
    const held = Math.max(0, Math.min(length, end - offset));
    if (held > 0) yield { kind: 'data', length: held, file, offset };
    if (held < length) yield { kind: 'bad', length: length - held, why: GONE, by: file };
  }

  #isTwice(index: number): boolean {
    const { claims } = this.#table;
    this.#blocks ??= sorted(claims.all());
    this.#bitmaps ??= sorted(claims.bitmaps?.() ?? []);
    const start = claims.of(index);
    const end = start + claims.span;
    return within(this.#blocks, start - claims.span + 1, end) > 1 || within(this.#bitmaps, start, end) > 0;
  }

  /**
   * Whether the end of the file cuts the block at byte `start`, and it does not begin where another one ends: then it is not
   * known that the file was cut off, as the entry of the last block may have become a wrong one. After `#isTwice`.
   */
  #isCutOddly(index: number, start: number): boolean {
    const { claims, blockSize, end } = this.#table;
    // Of blocks whose places are counted in blocks, no other one is partly there.
    if (start >= end || start + blockSize <= end || claims.span === 1) return false;
    const first = claims.of(index);
    const before = within(this.#blocks!, first - claims.span, first - claims.span + 1);
    return before === 0 && within(this.#bitmaps!, first - 1, first) === 0;
  }

  /** After `#isTwice`. */
  #bitmapIsTwice(index: number): boolean {
    const { claims } = this.#table;
    const start = claims.bitmapOf?.(index);
    if (start === undefined) return false;
    const others = within(this.#blocks!, start - claims.span + 1, start + 1);
    return others > 0 || within(this.#bitmaps!, start, start + 1) > 1;
  }
}

/** The doctor: what the image says of itself, and the runs of the disk that cannot be read right. */
export function* examineBlocks(
  file: ImageFile,
  layer: Layer,
  troubles: readonly string[],
  notes: readonly string[] = [],
): Generator<Finding, void, undefined> {
  const member = file.path;
  for (const what of troubles) yield { severity: 'defect', kind: 'image', member, what, count: 1 };
  for (const what of notes) yield { severity: 'note', kind: 'image', member, what, count: 1 };
  let offset = 0;
  let runs = 0;
  for (const run of joined(layer.extents(0, layer.size))) {
    if (++runs > MOST_RUNS) {
      const what = 'the disk has more runs than are looked at; the rest is not checked';
      yield { severity: 'note', kind: 'image', member, what, count: 1 };
      return;
    }
    const range = { offset, length: run.length };
    if (run.kind === 'bad') {
      yield { severity: 'defect', kind: 'range', member, what: run.why, count: 1, range };
    }
    offset += run.length;
  }
}
