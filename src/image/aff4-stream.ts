/**
 * A stream of AFF4: chunks, packed one by one, in bevies, members of the container, each with an index of 12 bytes a chunk (AFF4
 * Standard 1.0). Where a chunk is as long as it is unpacked it is plain.
 */
import { LRUCache } from 'lru-cache';
import type { LayerExtent, PackedExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import type { Member, Zip } from './aff4-zip.js';

const ENTRY = 12;

/** Bytes of indices that the process keeps. */
const KEPT = 16 * 2 ** 20;

export interface StreamShape {
  readonly size: number;
  readonly chunk: number;
  readonly perBevy: number;
  /** undefined where nothing is packed. */
  readonly codec: PackedExtent['codec'] | undefined;
}

interface Bevy {
  /** Where it begins in the file. */
  readonly start: number;
  readonly length: number;
  readonly index: Buffer;
}

const cache = new LRUCache<Member, Bevy>({
  maxSize: KEPT,
  sizeCalculation: ({ index }) => index.length + 256,
});

export class Aff4Stream {
  readonly shape: StreamShape;
  readonly #zip: Zip;
  /** By the names that the standard gives: `00000000`, `00000000.index`. */
  readonly #members: ReadonlyMap<string, Member>;

  constructor(zip: Zip, members: ReadonlyMap<string, Member>, shape: StreamShape) {
    this.#zip = zip;
    this.#members = members;
    this.shape = shape;
  }

  get file(): ImageFile {
    return this.#zip.file;
  }

  /** The runs of `length` bytes from `offset`; what lies beyond the stream is bad. */
  *extents(offset: number, length: number): Generator<LayerExtent, void, undefined> {
    const { size, chunk } = this.shape;
    const end = offset + length;
    while (offset < end) {
      if (offset >= size) {
        yield {
          kind: 'bad',
          length: end - offset,
          why: `${this.file.path}: beyond the end of the stream`,
          by: this.file,
        };
        return;
      }
      const number = Math.floor(offset / chunk);
      const stop = Math.min(end, size, (number + 1) * chunk);
      yield this.#chunk(number, offset - number * chunk, stop - offset);
      offset = stop;
    }
  }

  #chunk(number: number, skip: number, length: number): LayerExtent {
    const { chunk, perBevy, codec, size } = this.shape;
    const file = this.file;
    const bad = (why: string): LayerExtent => ({ kind: 'bad', length, why, by: file });
    const bevy = this.#bevy(Math.floor(number / perBevy));
    if (typeof bevy === 'string') return bad(bevy);
    const at = (number % perBevy) * ENTRY;
    const here = `${file.path}: the chunk ${number}`;
    if (at + ENTRY > bevy.index.length) return bad(`${here} is not in the index of its bevy`);
    const offset = Number(bevy.index.readBigUInt64LE(at));
    const stored = bevy.index.readUInt32LE(at + 8);
    if (offset + stored > bevy.length) return bad(`${here} lies beyond the end of its bevy`);
    const held = Math.min(chunk, size - number * chunk);
    if (codec === undefined || stored === chunk) {
      if (stored < skip + length) return bad(`${here} has ${stored} bytes`);
      return { kind: 'data', length, file, offset: bevy.start + offset + skip };
    }
    if (stored === 0 || stored > chunk + Math.ceil(chunk / 6) + 4096)
      return bad(`${here} says to have ${stored} bytes`);
    const unpackedLength = held < chunk ? this.#lastLength(bevy.start + offset, held) : chunk;
    return {
      kind: 'packed',
      length,
      file,
      offset: bevy.start + offset,
      packedLength: stored,
      codec,
      unpackedLength,
      skip,
    };
  }

  /** Some writers fill the last chunk up: a stream of Snappy says how long it is. */
  #lastLength(at: number, held: number): number {
    if (this.shape.codec !== 'snappy') return held;
    let length = 0;
    for (const [i, byte] of this.file.read(at, 5).entries()) {
      length += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) break;
    }
    return length === this.shape.chunk ? length : held;
  }

  #bevy(number: number): Bevy | string {
    const name = String(number).padStart(8, '0');
    const member = this.#members.get(name);
    const index = this.#members.get(`${name}.index`);
    if (!member || !index) return `${this.file.path}: the bevy ${name} is missing`;
    const known = cache.get(member);
    if (known) return known;
    if (member.method !== 0) return `${this.file.path}: the bevy ${name} is packed as a whole`;
    try {
      const start = this.#zip.dataOf(member);
      if (typeof start === 'string') return start;
      const bytes = this.#zip.read(index);
      if (typeof bytes === 'string') return bytes;
      const bevy = { start, length: member.size, index: bytes };
      cache.set(member, bevy);
      return bevy;
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO')
        return `${this.file.path}: the bevy ${name} cannot be read: ${error.message}`;
      throw error;
    }
  }
}
