/**
 * A sparse extent of a VMDK, in two kinds: VMware's hosted one ("KDMV"), whose tables are there twice and whose grains may be
 * packed, and that of ESX ("COWD"), with single tables. A directory leads to tables, and these to grains; 0 says nothing,
 * 1 is zeros where the header allows it.
 *
 * The tables have no checksum. An entry that differs from its copy is bad: nobody knows which is right. Where an entry
 * has no copy, or both were changed alike, it leads to another grain's place most of the time: before the first plain grain is
 * believed, the tables are looked through once for such claims. A packed grain says itself which sector of the disk it is.
 */
import { inflateSync } from 'node:zlib';
import type { LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { sorted, within } from './claims.js';
import { heldParts } from './held-parts.js';
import { HOST, PAGE, Pages } from './pages.js';

export const HOSTED = 'KDMV';
export const ESX = 'COWD';

const SECTOR = 512;

/** Bytes of a grain: the engine unpacks no larger block at once. VMware's have 64 KiB. */
const MOST_GRAIN = 32 * 2 ** 20;

/** Entries of a directory: with VMware's grains, 32 MiB each. QEMU takes no more either. */
const MOST_DIRECTORY = 32 * 2 ** 20;

/** Bytes of tables whose entries are compared with each other: with VMware's grains, those of a disk of 512 GiB. */
const MOST_COMPARED = 32 * 2 ** 20;

/** Bytes of the directory that are read at once. */
const PART = 2 ** 20;

/** Entries that one run crosses: bounds what a caller pays who wants the first run only. */
const STRIDE = 4096;

export interface SparseHeader {
  /** Sectors. */
  readonly capacity: number;
  readonly grain: number;
  /** Entries of a table. */
  readonly entries: number;
  /** Bytes in the file: the directory, and its copy, or 0. */
  readonly directory: number;
  readonly copy: number;
  /** Bytes at the start of the file in which no grain lies. */
  readonly overhead: number;
  readonly zeroEntries: boolean;
  readonly packed: boolean;
  readonly dirty: boolean;
  /** Of the descriptor within, bytes; 0 where there is none. */
  readonly descriptor: { readonly offset: number; readonly length: number };
}

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED or IO. */
export function parseSparse(file: ImageFile): SparseHeader {
  const head = file.read(0, 2048);
  const mark = head.toString('latin1', 0, 4);
  if (mark === HOSTED) return hosted(file, head);
  if (mark === ESX) return esx(file, head);
  throw new AsofError('IMAGE_CORRUPT', `${file.path} is no sparse extent of a VMDK`);
}

function hosted(file: ImageFile, first: Buffer): SparseHeader {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  let head = first;
  const at = (offset: number, what: string) => {
    const value = Number(head.readBigUInt64LE(offset));
    if (!Number.isSafeInteger(value * SECTOR))
      throw corrupt(`the ${what}, ${value} sectors, is beyond 2^53 bytes`);
    return value;
  };
  if (head.length < SECTOR) throw corrupt('the file ends within the header');
  const descriptor = {
    offset: at(28, 'place of the descriptor') * SECTOR,
    length: at(36, 'descriptor') * SECTOR,
  };
  // The header of a stream was written before anybody knew where the directory would be.
  if (head.readBigUInt64LE(56) === 2n ** 64n - 1n) {
    head = file.read(file.size - 1024, SECTOR);
    if (head.length < SECTOR || head.toString('latin1', 0, 4) !== HOSTED)
      throw corrupt('the stream has no footer: it was cut off');
    // What the header states as well must be the same.
    for (const [from, to] of [
      [8, 28],
      [44, 48],
      [77, 79],
    ] as const)
      if (head.compare(first, from, to, from, to) !== 0)
        throw corrupt('the header and the footer contradict each other');
  }
  const version = head.readUInt32LE(4);
  if (version < 1 || version > 3) {
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: version ${version} of a sparse extent is none of 1, 2, 3`,
    );
  }
  const flags = head.readUInt32LE(8);
  if ((flags & ~0x30007) !== 0)
    throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: unknown flags 0x${flags.toString(16)}`);
  // A transfer as text changes these (the specification's own test).
  if ((flags & 1) !== 0 && head.toString('latin1', 73, 77) !== '\n \r\n')
    throw corrupt('a transfer as text has changed the file');
  const method = head.readUInt16LE(77);
  const packed = (flags & 0x10000) !== 0;
  if (method > 1) throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: unknown compression ${method}`);
  if (packed !== (method === 1)) throw corrupt('its flags and its compression method contradict each other');
  if (packed && (flags & 0x20000) === 0)
    throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: packed grains without markers`);
  const entries = head.readUInt32LE(44);
  if (entries !== 512) throw corrupt(`tables of ${entries} entries, where 512 is the only number`);
  const header = {
    capacity: at(12, 'capacity'),
    grain: at(20, 'grain'),
    entries,
    directory: at(56, 'place of the directory') * SECTOR,
    copy: (flags & 2) === 0 ? 0 : at(48, 'place of the copy of the directory') * SECTOR,
    overhead: at(64, 'overhead') * SECTOR,
    zeroEntries: (flags & 4) !== 0,
    packed,
    dirty: head[72] !== 0,
    descriptor,
  };
  return sound(file, header);
}

function esx(file: ImageFile, head: Buffer): SparseHeader {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  if (head.length < 2048) throw corrupt('the file ends within the header');
  const version = head.readUInt32LE(4);
  if (version !== 1) {
    throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: version ${version} of a COWD extent is not 1`);
  }
  const header = sound(file, {
    capacity: head.readUInt32LE(12),
    grain: head.readUInt32LE(16),
    entries: 4096,
    directory: head.readUInt32LE(20) * SECTOR,
    copy: 0,
    overhead: 2048,
    zeroEntries: false,
    packed: false,
    dirty: head[1648] !== 0,
    descriptor: { offset: 0, length: 0 },
  });
  const stated = head.readUInt32LE(24);
  if (stated < directoryLength(header))
    throw corrupt(`a directory of ${stated} entries is too short for the disk`);
  return header;
}

const directoryLength = ({ capacity, grain, entries }: SparseHeader) =>
  Math.ceil(capacity / (grain * entries));

function sound(file: ImageFile, header: SparseHeader): SparseHeader {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const { grain, directory, copy, entries } = header;
  if (grain === 0 || (grain & (grain - 1)) !== 0 || grain > 2 ** 30)
    throw corrupt(`a grain of ${grain} sectors is no power of two`);
  if (grain * SECTOR > MOST_GRAIN) {
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: grains of ${grain * SECTOR} bytes are larger than ${MOST_GRAIN}`,
    );
  }
  const length = directoryLength(header);
  if (length > MOST_DIRECTORY) {
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: a directory of ${length} entries is longer than ${MOST_DIRECTORY}`,
    );
  }
  if (directory < SECTOR) throw corrupt(`the directory stands at byte ${directory}`);
  if (copy !== 0 && copy < SECTOR) throw corrupt(`the copy of the directory stands at byte ${copy}`);
  // With a grain that is not the file's, the directory would be longer or shorter than what is there.
  const room = Math.ceil((length * 4) / SECTOR) * SECTOR + length * entries * 4;
  if (copy !== 0 && copy < directory && directory - copy < room)
    throw corrupt('its directories have no room for the tables of so many grains');
  if ((length * 4) % SECTOR !== 0) {
    const next = file.read(directory + length * 4, 4);
    if (next.length === 4 && next.readUInt32LE(0) !== 0)
      throw corrupt('its directory is longer than its disk');
  }
  return header;
}

export class SparseLayer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #pages: Pages;
  readonly #header: SparseHeader;
  readonly #grain: number;
  readonly #reach: number;
  #claims: Uint32Array | undefined;
  /** Sectors at which the tables of the directory begin, rising. */
  #starts: Uint32Array | undefined;
  /** Sectors at which tables begin, rising; filled with `#claims`. */
  #metadata = new Uint32Array(0);

  /** `size` bytes, at most the capacity. */
  constructor(file: ImageFile, header: SparseHeader, size: number) {
    this.size = size;
    this.#file = file;
    this.#pages = new Pages(file, 'little');
    this.#header = header;
    this.#grain = header.grain * SECTOR;
    this.#reach = this.#grain * header.entries;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    while (offset < end) {
      const index = Math.floor(offset / this.#reach);
      const tables = this.#tables(index);
      let next = index + 1;
      if (typeof tables === 'string') {
        const stop = Math.min(end, next * this.#reach);
        yield this.#bad(tables, stop - offset);
        offset = stop;
        continue;
      }
      if (tables.table !== 0) {
        const stop = Math.min(end, next * this.#reach);
        yield* this.#walkTable(tables, offset, stop);
        offset = stop;
        continue;
      }
      const last = Math.min(index + STRIDE, Math.ceil(end / this.#reach));
      while (next < last && this.#isEmpty(next)) next++;
      const stop = Math.min(end, next * this.#reach);
      yield { kind: 'absent', length: stop - offset };
      offset = stop;
    }
  }

  #isEmpty(index: number): boolean {
    const tables = this.#tables(index);
    return typeof tables !== 'string' && tables.table === 0;
  }

  /** The table of entry `index` of the directory and its copy, bytes; 0 for none. Or why it cannot be known. */
  #tables(index: number): { table: number; copy: number } | string {
    const { directory, copy } = this.#header;
    const table = this.#entry(directory + index * 4);
    if (typeof table === 'string') return `the directory ${table}`;
    const second = copy === 0 ? 0 : this.#entry(copy + index * 4);
    if (typeof second === 'string') return `the copy of the directory ${second}`;
    if (copy !== 0 && (table === 0) !== (second === 0))
      return 'the directory and its copy contradict each other';
    const length = this.#header.entries * 4;
    for (const one of [table, second]) {
      if (one === 0) continue;
      if (one * SECTOR < SECTOR * 2) return `a table cannot stand at sector ${one}`;
      if (one * SECTOR + length > this.#file.size) return 'the table lies beyond the end of the file';
    }
    this.#starts ??= sorted(this.#directory());
    if (table !== 0 && within(this.#starts, table - length / SECTOR + 1, table + length / SECTOR) > 1)
      return 'the table lies where another table lies';
    // One place for both would be no copy at all.
    const apart = Math.abs(table - second) * SECTOR;
    if (table !== 0 && copy !== 0 && apart < length) return 'the table and its copy overlap';
    const own = Math.ceil(directoryLength(this.#header) * 4);
    for (const one of table === 0 ? [] : [table, second]) {
      const at = one * SECTOR;
      const meets = (start: number) => start !== 0 && at < start + own && start < at + length;
      if (one !== 0 && (meets(directory) || meets(copy))) return 'a table overlaps a directory';
    }
    return { table: table * SECTOR, copy: second * SECTOR };
  }

  *#walkTable(
    { table, copy }: { table: number; copy: number },
    offset: number,
    end: number,
  ): Generator<LayerExtent, void, undefined> {
    const first = offset - (offset % this.#reach);
    while (offset < end) {
      const index = Math.floor((offset - first) / this.#grain);
      const start = first + index * this.#grain;
      const stop = Math.min(end, start + this.#grain);
      const empty = this.#emptyFrom(table, copy, index, Math.ceil((end - first) / this.#grain));
      if (empty > index) {
        const next = Math.min(end, first + empty * this.#grain);
        yield { kind: 'absent', length: next - offset };
        offset = next;
        continue;
      }
      const entry = this.#entry(table + index * 4);
      const second = copy === 0 ? entry : this.#entry(copy + index * 4);
      if (typeof entry === 'string') yield this.#bad(`the table ${entry}`, stop - offset);
      else if (entry !== second)
        yield this.#bad('the table and its copy contradict each other', stop - offset);
      else yield* this.#single(entry, start, offset - start, stop - offset);
      offset = stop;
    }
  }

  /** The first entry from `index` on, at most `last`, that is not 0 in the table and in its copy. Most are, in sparse disks. */
  #emptyFrom(table: number, copy: number, index: number, last: number): number {
    while (index < last) {
      const own = this.#zerosFrom(table + index * 4, last - index);
      const both = copy === 0 ? own : Math.min(own, this.#zerosFrom(copy + index * 4, last - index));
      if (both === 0) return index;
      index += both;
    }
    return last;
  }

  /** How many words from byte `at` on are 0, of `most`, as far as one page tells. */
  #zerosFrom(at: number, most: number): number {
    if (this.#entry(at) !== 0) return 0;
    const { words, bytes } = this.#pages.page(Math.floor(at / PAGE));
    const first = (at % PAGE) / 4;
    const end = Math.min(first + most, bytes >> 2);
    let word = first + 1;
    while (word < end && words[word] === 0) word++;
    return word - first;
  }

  *#single(
    entry: number,
    start: number,
    skip: number,
    length: number,
  ): Generator<LayerExtent, void, undefined> {
    const { zeroEntries, overhead, packed } = this.#header;
    const place = entry * SECTOR;
    if (entry === 0) {
      yield { kind: 'absent', length };
    } else if (entry === 1 && zeroEntries) {
      yield { kind: 'zero', length, by: this.#file };
    } else if (place < overhead || place < SECTOR * 2) {
      yield this.#bad('the grain lies within the metadata', length);
    } else if (packed) {
      yield this.#packed(place, start, skip, length);
    } else {
      const why = this.#misplaced(entry, start);
      if (why !== undefined) {
        yield this.#bad(why, length);
        return;
      }
      const offset = place + skip;
      const held = Math.max(0, Math.min(length, this.#file.size - offset));
      if (held > 0) yield { kind: 'data', length: held, file: this.#file, offset };
      if (held < length) yield this.#bad('the grain lies beyond the end of the file', length - held);
    }
  }

  /** Why the grain at sector `entry`, which is that of byte `start` of the disk, cannot lie there, as far as others tell. */
  #misplaced(entry: number, start: number): string | undefined {
    this.#claims ??= sorted(this.#all());
    const { grain, entries } = this.#header;
    const table = Math.ceil((entries * 4) / SECTOR);
    const own = this.#lengthAt(start);
    if (within(this.#metadata, entry - table + 1, entry + own) > 0) return 'the grain lies within a table';
    // The last grain of the disk may be a short one; what is behind it then may be another's.
    const short = own < grain;
    const last = this.#tail;
    const others = short
      ? within(this.#claims, entry - grain + 1, entry + own)
      : within(this.#claims, entry - grain + 1, entry + grain) - 1;
    const meetsLast =
      !short && last !== undefined && last.entry < entry + grain && entry < last.entry + last.length;
    if (others > 0 || meetsLast) return 'the grain lies where another grain lies';
    // Where the end of the file cuts a grain that follows no other one, its entry may be the one that is wrong.
    if (entry * SECTOR >= this.#file.size || (entry + grain) * SECTOR <= this.#file.size) return undefined;
    if (within(this.#claims, entry - grain, entry - grain + 1) > 0 || this.#claims.length === 0)
      return undefined;
    return within(this.#metadata, entry - table, entry - table + 1) > 0
      ? undefined
      : 'the grain runs into the end of the file';
  }

  /** Sectors of the grain of byte `start` of the disk. */
  #lengthAt(start: number): number {
    return Math.min(this.#header.grain, this.#header.capacity - start / SECTOR);
  }

  /** The last grain of the disk, where it is a short one. */
  #tail: { readonly entry: number; readonly length: number } | undefined;

  /** What the entries of all tables claim, but for `#tail`, in arrays that hold good until the next is asked for. */
  *#all(): Generator<Uint32Array, void, undefined> {
    const { entries, zeroEntries } = this.#header;
    const tables: { readonly index: number; readonly table: number; readonly copy: number }[] = [];
    const most = MOST_COMPARED / (entries * 4);
    for (const index of this.#named()) {
      const found = this.#tables(index);
      if (typeof found !== 'string' && found.table !== 0) tables.push({ index, ...found });
      if (tables.length > most) return;
    }
    const places = tables.flatMap(({ table, copy }) => (copy === 0 ? [table] : [table, copy]));
    this.#metadata = Uint32Array.from(places, place => place / SECTOR).sort();
    const into = new Uint32Array(entries);
    for (const { index, table, copy } of tables) {
      const words = this.#whole(table, entries);
      const second = copy === 0 ? words : this.#whole(copy, entries);
      let count = 0;
      for (const [i, entry] of words.entries()) {
        // One that differs from its copy is bad already, and need not spoil others.
        if (entry === 0 || (entry === 1 && zeroEntries) || entry !== second[i]) continue;
        const length = this.#lengthAt((index * entries + i) * this.#grain);
        if (length === this.#header.grain) into[count++] = entry;
        else if (length > 0) this.#tail = { entry, length };
      }
      yield into.subarray(0, count);
    }
  }

  /** Numbers of the directory's entries that are not 0. */
  *#named(): Generator<number, void, undefined> {
    for (const { first, words } of this.#parts())
      for (let i = 0; i < words.length; i++) if (words[i] !== 0) yield first + i;
  }

  /** The directory's entries that are not 0, in arrays. */
  *#directory(): Generator<Uint32Array, void, undefined> {
    for (const { words } of this.#parts()) {
      let count = 0;
      for (let i = 0; i < words.length; i++) if (words[i] !== 0) words[count++] = words[i]!;
      yield words.subarray(0, count);
    }
  }

  *#parts(): Generator<{ readonly first: number; readonly words: Uint32Array }, void, undefined> {
    const { directory } = this.#header;
    const length = directoryLength(this.#header) * 4;
    for (const part of heldParts(this.#file, directory, length, PART)) {
      const words = this.#whole(part.offset, part.length >> 2);
      yield { first: (part.offset - directory) / 4, words };
    }
  }

  /** The entries of a table; none where they cannot be read, which is told where one of them is needed. */
  #whole(table: number, entries: number): Uint32Array {
    const words = new Uint32Array(entries);
    const bytes = Buffer.from(words.buffer);
    try {
      this.#file.read(table, bytes.length).copy(bytes);
    } catch (error) {
      if (!(error instanceof AsofError) || error.code !== 'IO') throw error;
    }
    if (HOST !== 'little') bytes.swap32();
    return words;
  }

  /** A packed grain begins with the sector of the disk that it is, and its packed length. */
  #packed(place: number, start: number, skip: number, length: number): LayerExtent {
    let marker: Buffer;
    try {
      marker = this.#file.read(place, 12);
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO')
        return this.#bad(`the grain cannot be read: ${error.message}`, length);
      throw error;
    }
    if (marker.length < 12) return this.#bad('the grain lies beyond the end of the file', length);
    if (marker.readBigUInt64LE(0) !== BigInt(start / SECTOR))
      return this.#bad('the grain says that it belongs elsewhere', length);
    const packedLength = marker.readUInt32LE(8);
    if (packedLength === 0 || packedLength > this.#grain * 2 + 1024)
      return this.#bad(`a packed grain of ${packedLength} bytes is none`, length);
    if (place + 12 + packedLength > this.#file.size)
      return this.#bad('the grain lies beyond the end of the file', length);
    const last = start + this.#grain > this.#header.capacity * SECTOR;
    return {
      kind: 'packed',
      length,
      file: this.#file,
      offset: place + 12,
      packedLength,
      codec: 'zlib',
      unpackedLength: last ? this.#lastLength(place + 12, packedLength, start) : this.#grain,
      skip,
    };
  }

  #last: number | undefined;

  /** The last grain may hold the rest of the disk only, or all of a grain. */
  #lastLength(offset: number, packedLength: number, start: number): number {
    this.#last ??= unpackedLength(this.#file.read(offset, packedLength), this.#grain);
    const least = this.#header.capacity * SECTOR - start;
    return this.#last < least ? this.#grain : this.#last;
  }

  /** The word at byte `at`, or why it cannot be known. */
  #entry(at: number): number | string {
    try {
      const page = this.#pages.page(Math.floor(at / PAGE));
      const within = at % PAGE;
      if (within + 4 > page.bytes) return 'lies beyond the end of the file';
      return page.words[within / 4]!;
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO') return `cannot be read: ${error.message}`;
      throw error;
    }
  }

  #bad(why: string, length: number): LayerExtent {
    return { kind: 'bad', length, why: `${this.#file.path}: ${why}`, by: this.#file };
  }
}

/** Bytes that a stream unpacks to, at most `most`; 0 where it does not. */
function unpackedLength(packed: Buffer, most: number): number {
  try {
    return inflateSync(packed, { maxOutputLength: most }).length;
  } catch {
    return 0;
  }
}
