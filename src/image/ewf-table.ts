/**
 * The table of a group of chunks: for each where it begins, 31 bits from a base, and in the highest bit whether it is a
 * zlib stream, or plain with its Adler-32 behind. It is read as a whole, since one checksum covers all of it, when first
 * a chunk is asked for; its copy is used where it is damaged. All images of the process share one cache of tables.
 */
import { LRUCache } from 'lru-cache';
import { AsofError } from '../errors.js';
import { adler32 } from './adler32.js';
import { countOf, type Group, TABLE_HEADER, type TableAt } from './ewf-contents.js';

/** Bytes of tables that the process keeps. */
const KEPT = 16 * 2 ** 20;

/** Entries of one table; EnCase writes 65534 at most, EWF-X has no limit. More would be half a gigabyte to read at once. */
const MOST_ENTRIES = 2 ** 24;

export interface Place {
  readonly offset: number;
  readonly packed: boolean;
}

export class Table {
  readonly #entries: Uint32Array;
  readonly #base: number;
  /** From here on entries have 32 bits and chunks are plain: EnCase 6.7.1, behind 2 GiB of a section. */
  readonly #plainFrom: number;

  constructor(entries: Uint32Array, base: number) {
    this.#entries = entries;
    this.#base = base;
    const from = entries.findIndex((entry, i) => i > 0 && bits31(entry) < bits31(entries[i - 1]!));
    this.#plainFrom = from > 0 && entries[from]! > bits31(entries[from - 1]!) ? from : entries.length;
  }

  get bytes(): number {
    return this.#entries.byteLength;
  }

  at(index: number): Place {
    const entry = this.#entries[index]!;
    if (index >= this.#plainFrom) return { offset: this.#base + entry, packed: false };
    return { offset: this.#base + bits31(entry), packed: entry >= 2 ** 31 };
  }

  /** Without a checksum, an entry is believed only where it stands in order: so that none leads to another's chunk. */
  inOrder(index: number): boolean {
    const place = (i: number) => bits31(this.#entries[i]!);
    if (index > 0 && place(index) <= place(index - 1)) return false;
    return index + 1 >= this.#entries.length || place(index + 1) > place(index);
  }
}

const bits31 = (entry: number) => entry % 2 ** 31;

export interface Held {
  readonly table: Table;
  /** The checksum of the entries was there, and right. */
  readonly verified: boolean;
}

const cache = new LRUCache<Group, Held>({ maxSize: KEPT, sizeCalculation: ({ table }) => table.bytes + 256 });

/**
 * The table of `group`, or why there is none. `loose`: as the first specification has it, without a checksum, where none
 * matches.
 */
export function tableOf(group: Group, loose: boolean): Held | string {
  const known = cache.get(group);
  if (known) return known;
  let why = '';
  for (const at of group.tables) {
    const found = readTable(group, at, loose);
    if (typeof found !== 'string') {
      cache.set(group, found);
      return found;
    }
    why ||= found;
  }
  return why;
}

/** One of the tables of `group`, or what is wrong with it. */
export function readTable({ file, count }: Group, { at, room }: TableAt, loose: boolean): Held | string {
  const here = `${file.path}: the table at byte ${at}`;
  if (count > MOST_ENTRIES) return `${here} has more than ${MOST_ENTRIES} entries`;
  let bytes: Buffer;
  try {
    bytes = file.read(at, Math.min(room, TABLE_HEADER + count * 4 + 4));
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return `${here} cannot be read: ${error.message}`;
    throw error;
  }
  const end = TABLE_HEADER + count * 4;
  if (bytes.length < end) return `${here} is cut off by the end of the file`;
  // The file may have changed since the header was first read.
  if (countOf(bytes) !== count) return `${here} is damaged`;
  const list = bytes.subarray(TABLE_HEADER, end);
  const verified = bytes.length >= end + 4 && adler32(list) === bytes.readUInt32LE(end);
  if (!verified && !loose) return `${here} does not match its checksum`;
  const base = Number(bytes.readBigUInt64LE(8));
  if (!Number.isSafeInteger(base)) return `${here} counts from byte ${base}`;
  const entries = new Uint32Array(count);
  for (let i = 0; i < count; i++) entries[i] = list.readUInt32LE(i * 4);
  return { table: new Table(entries, base), verified };
}
