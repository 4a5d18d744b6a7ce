/**
 * The Volume Shadow Copies of an NTFS volume as disks: libyal/libvshadow, documentation/Volume Shadow Snapshot (VSS)
 * format.asciidoc, "Reading snapshot data".
 *
 * A store has what was preserved since it began and until the next one did; what it does not have is asked of the newer
 * ones in turn, and last of the volume as it is now. All of it is extents of the volume: the engine reads a shadow copy as
 * it reads the disk that it lies in.
 */
import { LRUCache } from 'lru-cache';
import { type Extent, joined } from '../block/extent.js';
import { Peek } from '../block/peek.js';
import { type BlockSource, checkRange } from '../block/source.js';
import { AsofError } from '../errors.js';
import { BlockTable } from './shadow-blocks.js';
import { BLOCK, BLOCK_HEADER, corrupt, RECORD, readBlock, type Store, storesOf } from './shadow-catalog.js';

export type { Store };

const SECTOR = 512;
/** Bits of one block of a bitmap. */
const BITS = (BLOCK - BLOCK_HEADER) * 8;
/** Blocks of bitmaps that are kept. */
const KEPT = 64;
/** Bits that are looked at for one answer, 1 GiB of the volume. */
const MOST_BITS = 65536;

/** The shadow copies that a volume keeps, the oldest first. */
export class ShadowCopies {
  readonly stores: readonly Store[];
  readonly #volume: BlockSource;
  readonly #peek: Peek;
  readonly #tables = new Map<Store, BlockTable | string>();
  #unused: Unused | string | undefined;

  /** Throws what `storesOf` throws. Closing the volume is up to the caller. */
  constructor(volume: BlockSource) {
    this.#volume = volume;
    this.#peek = new Peek(volume);
    this.stores = storesOf(this.#peek);
  }

  /** The volume as of `store`. Its list is read at the first `extents`; where it cannot be, all that hangs on it is bad. */
  open(store: Store): BlockSource {
    const { size } = store;
    return {
      size,
      sectorSize: this.#volume.sectorSize,
      extents: (offset, length) => {
        checkRange(size, offset, length);
        return joined(this.#walk(store, offset, length));
      },
      close: () => {},
    };
  }

  /** Why not all of `store` can be vouched for, sentences. Reads its list, and those of the newer ones. */
  troubles(store: Store): string[] {
    const over = this.stores.slice(store.number - 1);
    return over.flatMap(one => {
      const table = this.#table(one);
      return typeof table === 'string' ? [table] : [];
    });
  }

  *#walk(store: Store, offset: number, length: number): Generator<Extent, void, undefined> {
    const end = offset + length;
    while (offset < end) {
      let done = 0;
      for (const run of this.#piece(store, offset, end - offset)) {
        yield run;
        done += run.length;
      }
      offset += done;
    }
  }

  /** The runs from `offset` on, for as far as one answer of the stores reaches: `length` bytes at most, one at least. */
  #piece(active: Store, offset: number, length: number): Iterable<Extent> {
    let at = offset;
    for (let i = active.number - 1; i < this.stores.length; i++) {
      const store = this.stores[i]!;
      const table = this.#table(store);
      if (typeof table === 'string') return [{ kind: 'bad', length, why: table }];
      const block = Math.floor(at / BLOCK);
      const within = at % BLOCK;
      const next = table.nextFrom(block);
      if (next !== block) {
        length = Math.min(length, next * BLOCK - at);
        continue;
      }
      length = Math.min(length, BLOCK - within);
      const sectors = store === active ? table.sectors(block) : undefined;
      if (sectors) {
        const run = runOf(sectors.bitmap, Math.floor(within / SECTOR));
        length = Math.min(length, run.end * SECTOR - within);
        if (run.set) return this.#now(sectors.at + within, length);
      }
      const preserved = table.preserved(block);
      if (!preserved) continue;
      at = preserved.at + within;
      if (preserved.forwarded && i + 1 < this.stores.length) length = Math.min(length, BLOCK - (at % BLOCK));
      else return this.#now(at, length);
    }
    return active === this.stores.at(-1) ? this.#ofNewest(active, at, length) : this.#now(at, length);
  }

  /**
   * What the newest store did not preserve. Blocks that its bitmap marks were never to be: they held nothing when it began,
   * or the writer of the store had no use for them. What Windows gives for them is left open; zeros are what vshadowmount
   * gives. Older stores do not ask.
   */
  #ofNewest(store: Store, at: number, length: number): Iterable<Extent> {
    const table = this.#table(store) as BlockTable;
    this.#unused ??= unusedOf(this.#peek, store);
    if (typeof this.#unused === 'string') return [{ kind: 'bad', length, why: this.#unused }];
    const block = Math.floor(at / BLOCK);
    const last = Math.min(Math.floor((at + length - 1) / BLOCK), block + MOST_BITS - 1);
    const wanted = this.#isUnused(table, this.#unused, block);
    if (typeof wanted === 'string')
      return [{ kind: 'bad', length: Math.min(length, (block + 1) * BLOCK - at), why: wanted }];
    let end = block + 1;
    while (end <= last && this.#isUnused(table, this.#unused, end) === wanted) end++;
    length = Math.min(length, end * BLOCK - at);
    return wanted ? [{ kind: 'zero', length }] : this.#now(at, length);
  }

  #isUnused(table: BlockTable, unused: Unused, block: number): boolean | string {
    return table.isTarget(block) ? false : unused(block);
  }

  /** Of the volume as it is. */
  *#now(at: number, length: number): Generator<Extent, void, undefined> {
    const there = Math.max(0, Math.min(length, this.#volume.size - at));
    if (there > 0) yield* this.#volume.extents(at, there);
    if (there < length) {
      const why = `the volume ends at byte ${this.#volume.size}, the shadow copy wants byte ${at + there} of it`;
      yield { kind: 'bad', length: length - there, why };
    }
  }

  #table(store: Store): BlockTable | string {
    let table = this.#tables.get(store);
    if (table === undefined) {
      table = tableOf(this.#peek, store);
      this.#tables.set(store, table);
    }
    return table;
  }
}

function tableOf(peek: Peek, store: Store): BlockTable | string {
  const { number, places, size } = store;
  if (!places) return `store ${number} of the shadow copies: ${store.trouble}`;
  return orWhy(`store ${number} of the shadow copies`, () => BlockTable.read(peek, places.list, size));
}

/** Whether a block is marked in both of the bitmaps of a store, or why that is not known. */
type Unused = (block: number) => boolean | string;

function unusedOf(peek: Peek, { number, places }: Store): Unused | string {
  return orWhy(`the bitmaps of store ${number} of the shadow copies`, () => {
    const current = bitmapOf(peek, places!.bitmap);
    const previous = places!.previousBitmap === 0 ? () => true : bitmapOf(peek, places!.previousBitmap);
    return block => {
      const marked = current(block);
      return marked === true ? previous(block) : marked;
    };
  });
}

/** What lies behind the end of a bitmap is not marked. Throws IMAGE_CORRUPT, DAMAGED or IO. */
function bitmapOf(peek: Peek, first: number): Unused {
  const seen = new Set<number>();
  for (let at = first; at !== 0; ) {
    if (seen.has(at) || seen.size * BITS * BLOCK > peek.source.size)
      throw corrupt(`a bitmap does not end: block at byte ${at}`);
    seen.add(at);
    at = readBlock(peek, at, RECORD.bitmap).next;
  }
  const places = [...seen];
  const kept = new LRUCache<number, Buffer>({ max: KEPT });
  return block => {
    const place = places[Math.floor(block / BITS)];
    if (place === undefined) return false;
    let bits = kept.get(place);
    if (!bits) {
      const found = orWhy('a bitmap', () => readBlock(peek, place, RECORD.bitmap).block);
      if (typeof found === 'string') return found;
      bits = found;
      kept.set(place, bits);
    }
    const bit = block % BITS;
    return ((bits[BLOCK_HEADER + (bit >> 3)]! >> (bit & 7)) & 1) === 1;
  };
}

function orWhy<T>(what: string, read: () => T): T | string {
  try {
    return read();
  } catch (error) {
    if (error instanceof AsofError) return `${what}: ${error.message}`;
    throw error;
  }
}

/** Sectors from `first` on that are alike in a bitmap of 32: whether they are set, and where they end. */
function runOf(bitmap: number, first: number): { readonly set: boolean; readonly end: number } {
  const bit = (i: number) => (bitmap >>> i) & 1;
  let end = first + 1;
  while (end < 32 && bit(end) === bit(first)) end++;
  return { set: bit(first) === 1, end };
}
