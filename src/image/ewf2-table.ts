/**
 * Which chunk of an Ex01 image lies where: tables of 16 bytes a chunk, each of which says with which chunk it begins, so that
 * a table that is missing costs its own chunks and no other (EWF2, "Sector table").
 */
import { LRUCache } from 'lru-cache';
import type { LayerExtent, PackedExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { adler32 } from './adler32.js';
import { aroundBad } from './ewf-bad.js';
import type { Method, Section } from './ewf2-section.js';

const HEADER = 32;
const ENTRY = 16;

const COMPRESSED = 1;
const CHECKSUMED = 2;
const PATTERN = 4;

/** Bytes of tables that the process keeps. */
const KEPT = 16 * 2 ** 20;
/** Entries of one table: half a gigabyte would be read at once. EnCase writes some 1,600. */
const MOST_ENTRIES = 2 ** 22;

export interface Table {
  readonly file: ImageFile;
  /** Where its header stands. */
  readonly at: number;
  /** Chunks. */
  readonly first: number;
  readonly count: number;
}

/** The table of a section, whose entries are not read yet; or what is wrong with it. Throws IO. */
export function tableIn(file: ImageFile, section: Section): Table | string {
  const here = `${file.path}: the table at byte ${section.data}`;
  const head = file.read(section.data, 20);
  if (head.length < 20 || adler32(head.subarray(0, 16)) !== head.readUInt32LE(16))
    return `${here} is damaged`;
  const first = Number(head.readBigUInt64LE(0));
  const count = head.readUInt32LE(8);
  if (count > MOST_ENTRIES) return `${here} has ${count} entries, more than ${MOST_ENTRIES}`;
  if (!Number.isSafeInteger(first) || section.data + HEADER + count * ENTRY + 4 > section.end)
    return `${here} does not fit into its section`;
  return { file, at: section.data, first, count };
}

const cache = new LRUCache<Table, Buffer>({ maxSize: KEPT, sizeCalculation: bytes => bytes.length + 256 });

/** The entries of a table, verified; or what is wrong with them. */
export function entriesOf(table: Table): Buffer | string {
  const known = cache.get(table);
  if (known) return known;
  const { file, at, count } = table;
  const here = `${file.path}: the table at byte ${at}`;
  let bytes: Buffer;
  try {
    bytes = file.read(at + HEADER, count * ENTRY + 4);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return `${here} cannot be read: ${error.message}`;
    throw error;
  }
  const entries = bytes.subarray(0, count * ENTRY);
  if (bytes.length < count * ENTRY + 4 || adler32(entries) !== bytes.readUInt32LE(count * ENTRY))
    return `${here} does not match its checksum`;
  cache.set(table, entries);
  return entries;
}

/** Chunks from `first` to `end`: of a table, or of nobody knows where. */
export interface Span {
  readonly first: number;
  readonly end: number;
  readonly table: Table | undefined;
  readonly why: string;
}

/** The spans of all of `total` chunks. Where two tables claim a chunk, neither is believed for it. */
export function spansOf(tables: readonly Table[], total: number, missing: string): Span[] {
  const edges = new Set([0, total]);
  const there = tables.filter(({ first, count }) => count > 0 && first < total);
  for (const { first, count } of there) edges.add(first).add(Math.min(total, first + count));
  const places = [...edges].sort((a, b) => a - b);
  const begins = there.toSorted((a, b) => a.first - b.first);
  const open: Table[] = [];
  const spans: Span[] = [];
  let next = 0;
  for (let i = 0; i + 1 < places.length; i++) {
    const first = places[i]!;
    const end = places[i + 1]!;
    while (next < begins.length && begins[next]!.first <= first) open.push(begins[next++]!);
    for (let j = open.length - 1; j >= 0; j--)
      if (open[j]!.first + open[j]!.count <= first) open.splice(j, 1);
    const [one, other] = open;
    if (other)
      spans.push({ first, end, table: undefined, why: `two tables claim the chunks ${first} to ${end - 1}` });
    else spans.push({ first, end, table: one, why: one ? '' : missing });
  }
  return spans;
}

export interface Geometry {
  /** Bytes. */
  readonly size: number;
  readonly chunk: number;
  readonly method: Method;
  /** Start and end, bytes, alternate; in order, without overlaps. */
  readonly bad: readonly number[];
}

export class Ewf2Layer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #spans: readonly Span[];
  readonly #geometry: Geometry;

  constructor(file: ImageFile, spans: readonly Span[], geometry: Geometry) {
    this.size = geometry.size;
    this.#file = file;
    this.#spans = spans;
    this.#geometry = geometry;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    const { bad } = this.#geometry;
    return aroundBad(bad, this.#file, offset, offset + length, (from, end) => this.#stored(from, end));
  }

  close(): void {}

  *#stored(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const { chunk: size } = this.#geometry;
    for (let i = this.#spanAt(Math.floor(offset / size)); offset < end; i++) {
      const { table, end: last, why } = this.#spans[i]!;
      const stop = Math.min(end, last * size);
      const entries = table ? entriesOf(table) : why;
      if (typeof entries === 'string') {
        yield { kind: 'bad', length: stop - offset, why: entries, by: table?.file ?? this.#file };
        offset = stop;
        continue;
      }
      while (offset < stop) {
        const chunk = Math.floor(offset / size);
        const next = Math.min(stop, (chunk + 1) * size);
        yield this.#chunk(table!, entries, chunk, offset, next - offset);
        offset = next;
      }
    }
  }

  #chunk(table: Table, entries: Buffer, chunk: number, offset: number, length: number): LayerExtent {
    const { file } = table;
    const { chunk: size, method } = this.#geometry;
    const index = (chunk - table.first) * ENTRY;
    const at = Number(entries.readBigUInt64LE(index));
    const stored = entries.readUInt32LE(index + 8);
    const flags = entries.readUInt32LE(index + 12);
    const start = chunk * size;
    const unpackedLength = Math.min(size, this.size - start);
    const bad = (why: string): LayerExtent => ({
      kind: 'bad',
      length,
      why: `${file.path}: the chunk ${chunk} ${why}`,
      by: file,
    });
    const packed = (codec: PackedExtent['codec'], from: number, packedLength: number): LayerExtent => ({
      kind: 'packed',
      length,
      file,
      offset: from,
      packedLength,
      codec,
      unpackedLength,
      skip: offset - start,
    });
    if (flags & COMPRESSED && flags & PATTERN) {
      // The eight bytes stand in the entry itself.
      if (entries.readBigUInt64LE(index) === 0n) return { kind: 'zero', length, by: file };
      return packed('pattern', table.at + HEADER + index, 8);
    }
    if (!Number.isSafeInteger(at) || at + stored > file.size) return bad('lies beyond the end of the file');
    if (flags & COMPRESSED) {
      if (method === 'none') return bad('is packed, where the image says that nothing is');
      if (stored === 0 || stored > mostPacked(size)) return bad(`says to have ${stored} bytes`);
      return packed(method, at, stored);
    }
    const wanted = flags & CHECKSUMED ? unpackedLength + 4 : unpackedLength;
    if (stored < wanted) return bad(`has ${stored} bytes, not ${wanted}`);
    if (flags & CHECKSUMED) return packed('adler32', at, wanted);
    return { kind: 'data', length, file, offset: at + offset - start };
  }

  #spanAt(chunk: number): number {
    let low = 0;
    let high = this.#spans.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.#spans[middle]!.first <= chunk) low = middle;
      else high = middle;
    }
    return low;
  }
}

/** The longest that a packed chunk can sensibly be: data that does not pack, and some slack. */
const mostPacked = (length: number) => length + Math.ceil(length / 16) + 4096;
