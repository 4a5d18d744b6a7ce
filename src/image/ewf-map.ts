/**
 * Which chunk of an EWF image lies where. A chunk has no number: its place in the order of all tables is the only one it
 * has. Where tables are missing, those before the gap are counted from the start and those behind it from the end; what
 * lies between two gaps has no place that anybody knows, and is an error, not a guess.
 */
import { inflateSync } from 'node:zlib';
import type { LayerExtent, PackedExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { adler32 } from './adler32.js';
import { aroundBad } from './ewf-bad.js';
import type { Gap, Group } from './ewf-contents.js';
import { type Held, tableOf } from './ewf-table.js';

/** Chunks from `first` to `end`, in a group from its first chunk on, or of nobody knows where. */
export interface Span {
  readonly first: number;
  readonly end: number;
  readonly group: Group | undefined;
  readonly why: string;
}

/** The spans of all of `total` chunks. `ended`: the parts go to the very end of the image, so that one can count from there. */
export function spansOf(all: readonly (Group | Gap)[], total: number, ended: boolean): Span[] {
  const spans: Span[] = [];
  const parts = complete(all, total);
  const gap = parts.findIndex(({ kind }) => kind === 'gap');
  const last = parts.findLastIndex(({ kind }) => kind === 'gap');
  let at = 0;
  for (const part of gap < 0 ? parts : parts.slice(0, gap)) {
    if (part.kind !== 'group' || at >= total) break;
    const end = Math.min(total, at + part.count);
    if (end > at) spans.push({ first: at, end, group: part, why: '' });
    at = end;
  }
  const tail: Span[] = [];
  let back = total;
  // A gap that `complete` put there is the last part, so that nothing is counted from the end.
  for (let i = parts.length - 1; ended && gap >= 0 && i > last; i--) {
    const group = parts[i] as Group;
    if (group.count === 0) continue;
    if (back - group.count < at) {
      // More than there is room for: neither count can be believed here.
      tail.length = 0;
      back = total;
      break;
    }
    tail.push({ first: back - group.count, end: back, group, why: '' });
    back -= group.count;
  }
  if (at < back) {
    const found = parts[gap];
    const why = found?.kind === 'gap' ? found.why : 'no table names it';
    spans.push({ first: at, end: back, group: undefined, why });
  }
  return [...spans, ...tail.reverse()];
}

/**
 * The parts with a gap where they cannot be all: a segment of another acquiry with more or fewer chunks moves all that
 * follow, and nobody knows which it is. Only what the first segment holds has a place then.
 */
function complete(parts: readonly (Group | Gap)[], total: number): readonly (Group | Gap)[] {
  let named = 0;
  for (const part of parts) {
    if (part.kind === 'gap') return parts;
    named += part.count;
  }
  if (named === total) return parts;
  const why = `the tables name ${named} chunks, where the disk has ${total}`;
  const first = parts[0]?.kind === 'group' ? parts[0].file : undefined;
  return [...parts.filter(part => part.kind === 'group' && part.file === first), { kind: 'gap', why }];
}

export interface Geometry {
  /** Bytes. */
  readonly size: number;
  readonly chunk: number;
  /** The tables need no checksum. */
  readonly loose: boolean;
  /** Start and end, bytes, alternate; in order, without overlaps. */
  readonly bad: readonly number[];
}

export class EwfLayer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #spans: readonly Span[];
  readonly #geometry: Geometry;
  #last: { readonly length: number; readonly tail: Buffer } | undefined;

  constructor(file: ImageFile, spans: readonly Span[], geometry: Geometry) {
    this.size = geometry.size;
    this.#file = file;
    this.#spans = spans;
    this.#geometry = geometry;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    const { bad } = this.#geometry;
    return aroundBad(bad, this.#file, offset, offset + length, (from, end) => this.#sound(from, end));
  }

  close(): void {}

  /**
   * What the last chunk holds behind the last sector: a file that was no multiple of a sector is stored whole, but counted
   * in sectors.
   */
  tail(): Buffer {
    if (this.size === 0) return Buffer.alloc(0);
    for (const _ of this.#sound(this.size - 1, this.size)) break;
    return this.#last?.tail ?? Buffer.alloc(0);
  }

  *#sound(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const { chunk: size, loose } = this.#geometry;
    for (let i = this.#spanAt(Math.floor(offset / size)); offset < end; i++) {
      const span = this.#spans[i]!;
      const stop = Math.min(end, span.end * size);
      const held = span.group ? tableOf(span.group, loose) : span.why;
      if (typeof held === 'string') {
        yield { kind: 'bad', length: stop - offset, why: held, by: span.group?.file ?? this.#file };
        offset = stop;
      }
      while (offset < stop && typeof held !== 'string') {
        const chunk = Math.floor(offset / size);
        const next = Math.min(stop, (chunk + 1) * size);
        yield this.#chunk(span, held, chunk, offset, next - offset);
        offset = next;
      }
    }
  }

  #chunk(span: Span, { table, verified }: Held, chunk: number, offset: number, length: number): LayerExtent {
    const group = span.group!;
    const { file } = group;
    const index = chunk - span.first;
    const start = chunk * this.#geometry.chunk;
    const whole = Math.min(this.#geometry.chunk, this.size - start);
    const bad = (why: string): LayerExtent => ({
      kind: 'bad',
      length,
      why: `${file.path}: the chunk ${chunk} ${why}`,
      by: file,
    });
    if (!verified && !table.inOrder(index)) return bad('stands out of order in a table without a checksum');
    const place = table.at(index);
    if (place.offset < group.from || place.offset >= group.to) return bad('stands outside its section');
    const limit = Math.min(group.to, file.size);
    const next = index + 1 < group.count ? table.at(index + 1).offset : limit;
    const room = (next > place.offset ? Math.min(next, limit) : limit) - place.offset;
    const wanted = place.packed ? Math.min(room, mostPacked(whole)) : whole + 4;
    if (room <= 0 || wanted > limit - place.offset) return bad('is cut off by the end of the file');
    const extent: PackedExtent = {
      kind: 'packed',
      length,
      file,
      offset: place.offset,
      packedLength: wanted,
      codec: place.packed ? 'zlib' : 'adler32',
      unpackedLength: whole,
      skip: offset - start,
    };
    if (start + this.#geometry.chunk < this.size) return extent;
    this.#last ??= lastChunk(extent, room, this.#geometry.chunk);
    const unpackedLength = this.#last.length;
    return { ...extent, unpackedLength, packedLength: place.packed ? wanted : unpackedLength + 4 };
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

/** How long the last chunk is, and what of it lies behind the disk. It may be longer than its sectors, and says so nowhere. */
function lastChunk(
  { file, offset, packedLength, codec, unpackedLength: whole }: PackedExtent,
  room: number,
  most: number,
): { length: number; tail: Buffer } {
  const none = { length: whole, tail: Buffer.alloc(0) };
  try {
    if (codec === 'zlib') {
      // Room for what is longer than the sectors, too.
      const packed = file.read(offset, Math.min(room, packedLength + 512));
      const bytes = inflateSync(packed, { maxOutputLength: most });
      return bytes.length < whole ? none : { length: bytes.length, tail: bytes.subarray(whole) };
    }
    const length = room - 4;
    if (length <= whole || length > most) return none;
    const bytes = file.read(offset, room);
    if (bytes.length < room || adler32(bytes.subarray(0, length)) !== bytes.readUInt32LE(length)) return none;
    return { length, tail: bytes.subarray(whole, length) };
  } catch (error) {
    // What is wrong with it, the engine says when it is read.
    if (error instanceof AsofError ? error.code === 'IO' : error instanceof Error && 'code' in error)
      return none;
    throw error;
  }
}

/** The longest that a zlib stream of `length` bytes can sensibly be: stored blocks, of whatever length, and some slack. */
const mostPacked = (length: number) => length + Math.ceil(length / 64) + 1024;
