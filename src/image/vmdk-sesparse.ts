/**
 * A SESparse extent of a VMDK ("space efficient"): what ESX writes for snapshots since 6.5, and for disks beyond 2 TiB. A constant
 * header says where everything lies, a volatile one whether the journal was written back; a directory leads to tables of
 * 4096 entries, and these to grains of 4 KiB, which nothing, zeros or a discard may stand for.
 *
 * VMware has not published the layout; this follows what QEMU reads (block/vmdk.c, vmdk_open_se_sparse). Changes that stand in
 * the journal alone would make the tables stale, and its layout is known to nobody else: such an extent is refused. The free
 * bitmap and the backward map are not needed for reading.
 *
 * Nothing bears a checksum. A table or a grain that two entries claim is nobody's.
 */
import type { LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { sorted, within } from './claims.js';
import { heldParts } from './held-parts.js';
import { PAGE, Pages } from './pages.js';

const MARK = '\xbe\xba\xfe\xca\0\0\0\0';
const VOLATILE_MARK = 0xcafecafen;
const VERSION = 0x0000000200000001n;

const SECTOR = 512;
/** Sectors of a grain and of a table: QEMU knows no others. */
const GRAIN = 8;
const TABLE = 64;
const GRAIN_BYTES = GRAIN * SECTOR;
const TABLE_BYTES = TABLE * SECTOR;
const ENTRIES = TABLE_BYTES / 8;
/** Bytes of the disk that one table tells of. */
const REACH = ENTRIES * GRAIN_BYTES;

/** 64 TiB, the largest disk of ESX with room to spare: a directory of 64 MiB. */
const MOST_TABLES = 2 ** 23;

/** Directory entries that one run crosses: bounds what a caller pays who wants the first run only. */
const STRIDE = 4096;

/** Tables whose entries are compared with each other: they tell of 32 GiB, and have 64 MiB. */
const MOST_COMPARED = 2048;

/** Bytes of the directory that are read at once. */
const PART = 2 ** 20;

export interface SesparseHeader {
  /** Sectors. */
  readonly capacity: number;
  /** Bytes in the file, from and length, of the areas that reading needs. */
  readonly directory: Area;
  readonly tables: Area;
  readonly grains: Area;
}

interface Area {
  readonly what: string;
  readonly offset: number;
  readonly length: number;
}

export const isSesparse = (head: Buffer) => head.toString('latin1', 0, 8) === MARK;

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED or IO. */
export function parseSesparse(file: ImageFile): SesparseHeader {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const unsupported = (what: string) => new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`);
  const head = file.read(0, SECTOR);
  if (head.length < SECTOR) throw corrupt('the file ends within the header');
  if (!isSesparse(head)) throw corrupt('it is no SESparse extent');
  const version = head.readBigUInt64LE(8);
  if (version !== VERSION)
    throw unsupported(`version 0x${version.toString(16)} of a SESparse extent is not 2.1`);
  const sectors = (at: number, what: string) => {
    const value = Number(head.readBigUInt64LE(at));
    if (!Number.isSafeInteger(value * SECTOR))
      throw corrupt(`${what}, ${value} sectors, is beyond 2^53 bytes`);
    return value;
  };
  const capacity = sectors(16, 'its capacity');
  const [grain, table] = [sectors(24, 'its grain'), sectors(32, 'its table')];
  if (grain !== GRAIN)
    throw unsupported(`grains of ${grain} sectors, where ${GRAIN} is the only known number`);
  if (table !== TABLE)
    throw unsupported(`tables of ${table} sectors, where ${TABLE} is the only known number`);
  const flags = head.readBigUInt64LE(40);
  if (flags !== 0n) throw unsupported(`unknown flags 0x${flags.toString(16)}`);
  if (!isZero(head.subarray(48, 80)) || !isZero(head.subarray(208)))
    throw unsupported('reserved fields of its header are used');
  const area = (at: number, what: string): Area => ({
    what,
    offset: sectors(at, `the place of ${what}`) * SECTOR,
    length: sectors(at + 8, what) * SECTOR,
  });
  const changing = area(80, 'the volatile header');
  const directory = area(128, 'the directory');
  const tables = area(144, 'the tables');
  const grains = area(192, 'the grains');
  apart(file, [
    { what: 'the header', offset: 0, length: SECTOR },
    changing,
    area(96, 'the header of the journal'),
    area(112, 'the journal'),
    directory,
    tables,
    area(160, 'the bitmap of free grains'),
    area(176, 'the backward map'),
    grains,
  ]);
  const count = Math.ceil((capacity * SECTOR) / REACH);
  if (count > MOST_TABLES) throw unsupported(`a disk of ${count} tables has more than ${MOST_TABLES}`);
  if (count * 8 > directory.length) throw corrupt(`its directory has no room for ${count} tables`);
  if (directory.offset === 0 || tables.offset === 0 || grains.offset === 0)
    throw corrupt('a part of it stands where its header is');
  settled(file, changing.offset);
  return { capacity, directory, tables, grains };
}

const isZero = (bytes: Buffer) => bytes.every(byte => byte === 0);

/** Areas that overlap: one of their places is wrong. */
function apart(file: ImageFile, areas: readonly Area[]): void {
  const all = areas.filter(({ length }) => length > 0).sort((a, b) => a.offset - b.offset);
  for (const [i, one] of all.entries()) {
    const before = all[i - 1];
    if (before && before.offset + before.length > one.offset)
      throw new AsofError('IMAGE_CORRUPT', `${file.path}: ${before.what} overlaps ${one.what}`);
  }
}

/** The volatile header: whether the tables are all that there is. */
function settled(file: ImageFile, offset: number): void {
  const head = file.read(offset, SECTOR);
  if (offset === 0 || head.length < SECTOR || head.readBigUInt64LE(0) !== VOLATILE_MARK)
    throw new AsofError('IMAGE_CORRUPT', `${file.path}: its volatile header is not where it should be`);
  if (head.readBigUInt64LE(24) !== 0n || !isZero(head.subarray(32)))
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: its journal holds changes that its tables do not have, and its layout is not published`,
      'power the virtual machine on and off, or consolidate its snapshots, on an ESX host; then copy the disk again',
    );
}

export class SesparseLayer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #pages: Pages;
  readonly #header: SesparseHeader;
  /** Of the tables that the directory names, those that it names twice. */
  #twice: ReadonlySet<number> | undefined;
  #claims: Uint32Array | undefined;

  /** `size` bytes, at most the capacity. */
  constructor(file: ImageFile, header: SesparseHeader, size: number) {
    this.size = size;
    this.#file = file;
    this.#pages = new Pages(file, 'little');
    this.#header = header;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    while (offset < end) {
      const index = Math.floor(offset / REACH);
      const table = this.#table(index);
      let next = index + 1;
      if (table === 0) {
        const last = Math.min(index + STRIDE, Math.ceil(end / REACH));
        while (next < last && this.#table(next) === 0) next++;
      }
      const stop = Math.min(end, next * REACH);
      if (table === 0) yield { kind: 'absent', length: stop - offset };
      else if (typeof table === 'string') yield this.#bad(table, stop - offset);
      else yield* this.#walkTable(table, offset, stop);
      offset = stop;
    }
  }

  /** The byte at which table `index` begins; 0 for none. Or why it cannot be known. */
  #table(index: number): number | string {
    const { directory, tables } = this.#header;
    const entry = this.#entry(directory.offset + index * 8);
    if (typeof entry === 'string') return `the directory ${entry}`;
    const [low, high] = entry;
    if (low === 0 && high === 0) return 0;
    if (high !== 0x10000000) return `an entry of the directory is of no kind that there is`;
    const at = low * TABLE_BYTES;
    if (at + TABLE_BYTES > tables.length) return 'the table lies outside of the tables';
    if (tables.offset + at + TABLE_BYTES > this.#file.size)
      return 'the table lies beyond the end of the file';
    this.#twice ??= this.#findTwice();
    if (this.#twice.has(low)) return 'two entries of the directory name one table';
    return tables.offset + at;
  }

  *#walkTable(table: number, offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const first = offset - (offset % REACH);
    while (offset < end) {
      const index = Math.floor((offset - first) / GRAIN_BYTES);
      const start = first + index * GRAIN_BYTES;
      const stop = Math.min(end, start + GRAIN_BYTES);
      yield* this.#grain(this.#entry(table + index * 8), offset - start, stop - offset);
      offset = stop;
    }
  }

  *#grain(entry: Entry | string, skip: number, length: number): Generator<LayerExtent, void, undefined> {
    if (typeof entry === 'string') {
      yield this.#bad(`the table ${entry}`, length);
      return;
    }
    const [low, high] = entry;
    const kind = high >>> 28;
    if (low === 0 && high === 0) yield { kind: 'absent', length };
    // What a discard and what a write of zeros left behind; the rest of the entry tells where the grain once was.
    else if (kind === 1 || kind === 2) yield { kind: 'zero', length, by: this.#file };
    else if (kind !== 3) yield this.#bad('an entry of the table is of no kind that there is', length);
    else yield* this.#held(numberOf(low, high), skip, length);
  }

  *#held(grain: number, skip: number, length: number): Generator<LayerExtent, void, undefined> {
    const { grains } = this.#header;
    if ((grain + 1) * GRAIN_BYTES > grains.length) {
      yield this.#bad('the grain lies outside of the grains', length);
      return;
    }
    this.#claims ??= sorted(this.#all());
    if (within(this.#claims, grain, grain + 1) > 1) {
      yield this.#bad('the grain lies where another grain lies', length);
      return;
    }
    const offset = grains.offset + grain * GRAIN_BYTES + skip;
    const held = Math.max(0, Math.min(length, this.#file.size - offset));
    if (held > 0) yield { kind: 'data', length: held, file: this.#file, offset };
    if (held < length) yield this.#bad('the grain lies beyond the end of the file', length - held);
  }

  /** Numbers of the tables that the directory names more than once. */
  #findTwice(): ReadonlySet<number> {
    const twice = new Set<number>();
    const all = sorted(this.#named());
    for (let i = 1; i < all.length; i++) if (all[i] === all[i - 1]) twice.add(all[i]!);
    return twice;
  }

  /** Numbers of the tables, in arrays that hold good until the next is asked for. */
  *#named(): Generator<Uint32Array, void, undefined> {
    const { capacity, directory } = this.#header;
    const length = Math.ceil((capacity * SECTOR) / REACH) * 8;
    const into = new Uint32Array(PART / 8);
    const zeros = Buffer.alloc(PART);
    for (const { offset, length: most } of heldParts(this.#file, directory.offset, length, PART)) {
      const part = this.#read(offset, most);
      if (part.equals(zeros.subarray(0, part.length))) continue;
      let count = 0;
      for (let at = 0; at + 8 <= part.length; at += 8)
        if (part.readUInt32LE(at + 4) === 0x10000000) into[count++] = part.readUInt32LE(at);
      yield into.subarray(0, count);
    }
  }

  /** Numbers of all grains that entries claim, a table at a time; nothing where there are too many tables. */
  *#all(): Generator<Uint32Array, void, undefined> {
    const { tables } = this.#header;
    const names: number[] = [];
    for (const some of this.#named()) {
      if (names.length + some.length > MOST_COMPARED) return;
      names.push(...some);
    }
    const into = new Uint32Array(ENTRIES);
    for (const name of names) {
      if ((name + 1) * TABLE_BYTES > tables.length) continue;
      const table = this.#read(tables.offset + name * TABLE_BYTES, TABLE_BYTES);
      let count = 0;
      for (let at = 0; at + 8 <= table.length; at += 8) {
        const high = table.readUInt32LE(at + 4);
        const grain = high >>> 28 === 3 ? numberOf(table.readUInt32LE(at), high) : 2 ** 32;
        if (grain < 2 ** 32) into[count++] = grain;
      }
      yield into.subarray(0, count);
    }
  }

  /** Bytes of the file; none where they cannot be read, which is told where an entry of them is needed. */
  #read(offset: number, length: number): Buffer {
    try {
      return this.#file.read(offset, length);
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO') return Buffer.alloc(0);
      throw error;
    }
  }

  /** The entry at byte `at`, low word first, or why it cannot be known. */
  #entry(at: number): Entry | string {
    try {
      const page = this.#pages.page(Math.floor(at / PAGE));
      const within = at % PAGE;
      if (within + 8 > page.bytes) return 'lies beyond the end of the file';
      return [page.words[within / 4]!, page.words[within / 4 + 1]!];
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO') return `cannot be read: ${error.message}`;
      throw error;
    }
  }

  #bad(why: string, length: number): LayerExtent {
    return { kind: 'bad', length, why: `${this.#file.path}: ${why}`, by: this.#file };
  }
}

type Entry = readonly [low: number, high: number];

/** The number of the grain of an allocated entry: of its 60 bits the twelve highest are the lowest of the number. */
function numberOf(low: number, high: number): number {
  return ((high >>> 16) & 0xfff) + ((high & 0xffff) * 2 ** 32 + low) * 4096;
}
