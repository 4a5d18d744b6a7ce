/**
 * What a store of shadow copies says of each block of the volume: libyal/libvshadow, documentation/Volume Shadow Snapshot
 * (VSS) format.asciidoc, "Store block list" and "Successive block descriptors".
 *
 * The list is read front to back, and what a descriptor means depends on those before it: a later one replaces, overlays
 * gather, and forwarders that lead to each other's place are followed to where the chain began. A list that cannot be read
 * whole therefore vouches for nothing.
 */
import type { Peek } from '../block/peek.js';
import { AsofError } from '../errors.js';
import { BLOCK, BLOCK_HEADER, corrupt, offsetAt, RECORD, readBlock } from './shadow-catalog.js';

const DESCRIPTOR = 32;

const FORWARDER = 1;
const OVERLAY = 2;
const UNUSED = 4;

/** Descriptors of one store, 128 GiB of blocks: half a gigabyte of memory while its list is read. */
const MOST_DESCRIPTORS = 2 ** 23;
/** Blocks of a list, four times what that many descriptors fill. */
const MOST_LIST_BLOCKS = 2 ** 16;

/** What is preserved of one block. */
export interface Preserved {
  /** Where the block's first byte is: in the volume as it is now, or, forwarded, in the next newer store. */
  readonly at: number;
  readonly forwarded: boolean;
}

/** Sectors of a block, bit 0 for the first, that lie somewhere of their own; only for who reads this store itself. */
export interface Sectors {
  readonly at: number;
  readonly bitmap: number;
}

/** A store's list, read. */
export class BlockTable {
  /** Numbers of blocks, ascending, each with its row. */
  readonly #blocks: Float64Array;
  readonly #rows: Int32Array;
  readonly #list: Descriptors;

  private constructor(list: Descriptors) {
    this.#list = list;
    const kept = list.forward.entries();
    this.#blocks = Float64Array.from(kept, ([block]) => block).sort();
    this.#rows = Int32Array.from(this.#blocks, block => list.forward.get(block)!);
  }

  /**
   * Reads the list that begins at byte `first` of a volume of `size` bytes.
   * Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, DAMAGED or IO.
   */
  static read(peek: Peek, first: number, size: number): BlockTable {
    const list = new Descriptors(size);
    const seen = new Set<number>();
    for (let at = first; at !== 0; ) {
      if (seen.has(at) || seen.size >= MOST_LIST_BLOCKS)
        throw corrupt(`a list of preserved blocks does not end: block at byte ${at}`);
      seen.add(at);
      const { block, next } = readBlock(peek, at, RECORD.list);
      for (let one = BLOCK_HEADER; one + DESCRIPTOR <= BLOCK; one += DESCRIPTOR)
        list.add(block.subarray(one, one + DESCRIPTOR));
      at = next;
    }
    return new BlockTable(list);
  }

  get count(): number {
    return this.#blocks.length;
  }

  /** The first block from `block` on that something is said of; Infinity where there is none. */
  nextFrom(block: number): number {
    return this.#blocks[this.#find(block)] ?? Infinity;
  }

  preserved(block: number): Preserved | undefined {
    const row = this.#row(block);
    return row === undefined ? undefined : this.#list.preserved(row);
  }

  sectors(block: number): Sectors | undefined {
    const row = this.#row(block);
    return row === undefined ? undefined : this.#list.sectors(row);
  }

  /** A forwarder leads to the block. */
  isTarget(block: number): boolean {
    return this.#list.reverse.has(block);
  }

  #row(block: number): number | undefined {
    const i = this.#find(block);
    return this.#blocks[i] === block ? this.#rows[i] : undefined;
  }

  /** The place of the first block that is not less. */
  #find(block: number): number {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#blocks[middle]! < block) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The descriptors in columns, a row each: a store has millions. */
class Descriptors {
  /** By the block that they are about, and forwarders by the block that they lead to. */
  readonly forward = new Map<number, number>();
  readonly reverse = new Map<number, number>();
  /** The row that overlays another one, by the row below. */
  readonly #overlays = new Map<number, number>();
  readonly #bitmaps = new Map<number, number>();
  #original = new Float64Array(4096);
  #target = new Float64Array(4096);
  #flags = new Uint8Array(4096);
  #count = 0;
  readonly #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  preserved(row: number): Preserved | undefined {
    if (this.#flags[row]! & OVERLAY) return undefined;
    return { at: this.#target[row]!, forwarded: (this.#flags[row]! & FORWARDER) !== 0 };
  }

  sectors(row: number): Sectors | undefined {
    const overlay = this.#flags[row]! & OVERLAY ? row : this.#overlays.get(row);
    if (overlay === undefined) return undefined;
    return { at: this.#target[overlay]!, bitmap: this.#bitmaps.get(overlay)! };
  }

  /** Throws IMAGE_CORRUPT where it is none of this volume, or IMAGE_UNSUPPORTED for too many. */
  add(bytes: Buffer): void {
    const original = offsetAt(bytes, 0);
    const relative = offsetAt(bytes, 8);
    const offset = offsetAt(bytes, 16);
    const flags = bytes.readUInt32LE(24);
    const bitmap = bytes.readUInt32LE(28);
    if (original === 0 && relative === 0 && offset === 0 && flags === 0 && bitmap === 0) return;
    if (flags & UNUSED) return;
    if (original >= this.#size || original % BLOCK !== 0)
      throw corrupt(`a block at byte ${original}, of which something is preserved, is none of the volume`);
    let block = original / BLOCK;
    if (!(flags & OVERLAY)) block = this.#followed(block);
    if (flags & FORWARDER) {
      if (offset !== 0 || relative >= this.#size)
        throw corrupt(
          `a forwarder of the block at byte ${original} leads to byte ${relative}, and to ${offset}`,
        );
      if (block * BLOCK === relative) return;
    }
    const row = this.#push(block, flags & FORWARDER ? relative : offset, flags);
    if (flags & OVERLAY) this.#bitmaps.set(row, bitmap);
    if (!this.#place(block, row)) return;
    if (flags & FORWARDER) this.reverse.set(Math.floor(relative / BLOCK), row);
  }

  /** Where a forwarder leads to this block, the block that it began at: the chain has come back. */
  #followed(block: number): number {
    const row = this.reverse.get(block);
    if (row === undefined) return block;
    this.reverse.delete(Math.floor(this.#target[row]! / BLOCK));
    return this.#original[row]!;
  }

  /** Whether it has a place of its own: an overlay of what is there already has none. */
  #place(block: number, row: number): boolean {
    const existing = this.forward.get(block);
    if (existing === undefined) {
      this.forward.set(block, row);
      return true;
    }
    const overlay = this.#flags[existing]! & OVERLAY ? existing : this.#overlays.get(existing);
    if (this.#flags[row]! & OVERLAY) {
      if (overlay === undefined) this.#overlays.set(existing, row);
      else this.#bitmaps.set(overlay, this.#bitmaps.get(overlay)! | this.#bitmaps.get(row)!);
      return false;
    }
    this.forward.set(block, row);
    if (overlay !== undefined) this.#overlays.set(row, overlay);
    this.#overlays.delete(existing);
    return true;
  }

  #push(block: number, target: number, flags: number): number {
    if (this.#count === MOST_DESCRIPTORS) {
      const what = `a list of more than ${MOST_DESCRIPTORS} preserved blocks is longer than is supported`;
      throw new AsofError('IMAGE_UNSUPPORTED', what);
    }
    if (this.#count === this.#original.length) {
      const length = this.#count * 2;
      this.#original = grown(this.#original, new Float64Array(length));
      this.#target = grown(this.#target, new Float64Array(length));
      this.#flags = grown(this.#flags, new Uint8Array(length));
    }
    this.#original[this.#count] = block;
    this.#target[this.#count] = target;
    this.#flags[this.#count] = flags;
    return this.#count++;
  }
}

function grown<A extends Float64Array | Uint8Array>(from: A, into: A): A {
  into.set(from);
  return into;
}
