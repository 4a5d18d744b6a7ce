/**
 * Files in the root folder of an NTFS, and where their bytes lie: as much of it as tells paging files and a hibernated system.
 * Layout: ntfs-3g, include/ntfs-3g/layout.h; whether the log is clean: ntfs_is_logfile_clean() in libntfs-3g/logfile.c.
 *
 * Nothing of it is believed: every record has its update sequence, every reference the number of its use, every length is bounded,
 * and what is anything but a plain list of runs is said to be so.
 */
import type { ReadAt } from '../block/partitions.js';
import type { Run } from './manifest.js';

/** Bounds: blocks of the root's index, bytes of an attribute list, runs of a file. */
const MOST_BLOCKS = 4096;
const MOST_LIST = 2 ** 18;
const MOST_RUNS = 65_536;

const ROOT = 5;
const VOLUME = 3;
const LOG = 2;

const STANDARD = { list: 0x20, name: 0x30, volume: 0x70, data: 0x80, indexRoot: 0x90, index: 0xa0 };

interface Attribute {
  readonly type: number;
  readonly name: string;
  readonly resident: boolean;
  /** Compressed, encrypted, sparse. */
  readonly flags: number;
  /** Of a resident one. */
  readonly value: Buffer;
  readonly firstCluster: number;
  /** Of one that is not resident: clusters [place, count], place undefined in a hole. */
  readonly runs: readonly (readonly [number | undefined, number])[];
  readonly size: number;
}

interface Record {
  readonly sequence: number;
  readonly isFile: boolean;
  readonly isBase: boolean;
  readonly attributes: readonly Attribute[];
}

export interface NtfsFile {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Where it lies, in its order; undefined where that cannot be said, with why. */
  readonly runs: readonly Run[] | undefined;
  readonly why: string;
}

/** What is not as it should be; the callers make it a reason. */
class Unclear extends Error {}

/** Why an NTFS is not at rest; undefined where it is. Throws what reading throws. */
export function ntfsUnrest(read: ReadAt): Promise<string | undefined> {
  return orWhy(async () => {
    const volume = await Ntfs.open(read);
    const { attributes } = await volume.record(VOLUME);
    const information = attributes.find(({ type }) => type === STANDARD.volume);
    if (!information || information.value.length < 12) return 'it does not say whether it is dirty';
    if ((information.value.readUInt16LE(10) & 1) !== 0) return 'it is marked as to be checked';
    return volume.logUnrest();
  });
}

/** Why its map may not be what the system has in memory: it sleeps. Throws what reading throws. */
export function hibernated(read: ReadAt): Promise<string | undefined> {
  return orWhy(async () => {
    const [file] = await rootFiles(read, ['hiberfil.sys']);
    if (!file) return undefined;
    const [first] = file.runs ?? [];
    if (!first) return `whether it is hibernated cannot be told: ${file.why || 'there is nothing in it'}`;
    const mark = (await read(first[0], 4)).toString('latin1').toLowerCase();
    return mark === 'hibr' ? 'the system on it is hibernated' : undefined;
  });
}

/** Those of the `names`, in small letters, that are files in the root folder; or why that cannot be told. */
export function ntfsRootFiles(read: ReadAt, names: readonly string[]): Promise<NtfsFile[] | string> {
  return orWhy(() => rootFiles(read, names));
}

async function rootFiles(read: ReadAt, names: readonly string[]): Promise<NtfsFile[]> {
  const volume = await Ntfs.open(read);
  const found: NtfsFile[] = [];
  for (const [number, sequence] of await volume.namesIn(ROOT, names)) {
    const file = await volume.file(number, sequence, names);
    if (file && !found.some(({ name }) => name === file.name)) found.push(file);
  }
  return found;
}

/** What leads out of a record (RangeError of Buffer) makes no more sense than what is said to be unclear. */
async function orWhy<T>(work: () => Promise<T>): Promise<T | string> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof RangeError) return 'a record of it makes no sense';
    if (error instanceof Unclear) return error.message;
    throw error;
  }
}

class Ntfs {
  readonly #read: ReadAt;
  readonly #sector: number;
  readonly #cluster: number;
  readonly #clusters: number;
  readonly #recordSize: number;
  readonly #mft: number;
  #table: Attribute | undefined;

  private constructor(read: ReadAt, boot: Buffer) {
    const perCluster = boot.readUInt8(0x0d);
    const size = boot.readInt8(0x40);
    this.#read = read;
    this.#sector = boot.readUInt16LE(0x0b);
    this.#cluster = this.#sector * (perCluster > 0x80 ? 2 ** (256 - perCluster) : perCluster);
    this.#recordSize = size < 0 ? 2 ** -size : size * this.#cluster;
    const power = (value: number, least: number, most: number) =>
      value >= least && value <= most && Number.isInteger(Math.log2(value));
    if (
      boot.toString('latin1', 3, 11) !== 'NTFS    ' ||
      !power(this.#sector, 512, 4096) ||
      !power(this.#cluster, 512, 2 ** 21) ||
      !power(this.#recordSize, 512, 65536)
    ) {
      throw new Unclear('its boot sector makes no sense');
    }
    this.#clusters = Math.floor((Number(boot.readBigUInt64LE(0x28)) * this.#sector) / this.#cluster);
    this.#mft = Number(boot.readBigUInt64LE(0x30));
  }

  static async open(read: ReadAt): Promise<Ntfs> {
    const boot = await read(0, 512);
    if (boot.length < 512) throw new Unclear('it has no boot sector');
    const volume = new Ntfs(read, boot);
    const bytes = await volume.#at(
      [[volume.#mft, Math.ceil(volume.#recordSize / volume.#cluster)]],
      0,
      volume.#recordSize,
    );
    volume.#table = only(volume.#parse(bytes).attributes, STANDARD.data, '');
    return volume;
  }

  async record(number: number): Promise<Record> {
    return this.#parse(await this.#at(this.#table!.runs, number * this.#recordSize, this.#recordSize));
  }

  /** References to records, of names in the index of a folder: [number, sequence]. What the index says may be out of date. */
  async namesIn(folder: number, names: readonly string[]): Promise<[number, number][]> {
    const { attributes } = await this.record(folder);
    if (attributes.some(({ type }) => type === STANDARD.list)) {
      throw new Unclear('its root folder is in more than one record');
    }
    const root = only(attributes, STANDARD.indexRoot, '$I30').value;
    if (root.length < 32) throw new Unclear('its root folder makes no sense');
    const found = entriesOf(root, 16, names);
    const index = attributes.find(({ type, name }) => type === STANDARD.index && name === '$I30');
    if (!index) return found;
    const block = root.readUInt32LE(8);
    if (block < 512 || block > 65536 || !Number.isInteger(Math.log2(block))) {
      throw new Unclear('its root folder makes no sense');
    }
    const blocks = Math.floor(index.size / block);
    if (blocks > MOST_BLOCKS) throw new Unclear(`its root folder has ${blocks} blocks`);
    for (let i = 0; i < blocks; i++) {
      const bytes = await this.#at(index.runs, i * block, block);
      // A block that nobody uses now may hold anything.
      if (bytes.toString('latin1', 0, 4) !== 'INDX') continue;
      found.push(...entriesOf(this.#whole(bytes), 0x18, names));
    }
    return found;
  }

  /** The file in this record, where it is one of the `names` in the root. */
  async file(number: number, sequence: number, names: readonly string[]): Promise<NtfsFile | undefined> {
    const record = await this.record(number);
    if (!record.isFile || !record.isBase || record.sequence !== sequence) return undefined;
    const name = (await this.#all(record, STANDARD.name))
      .filter(({ value }) => isIn(value, ROOT))
      .map(({ value }) => nameOf(value))
      .find(one => names.includes(one));
    if (name === undefined) return undefined;
    try {
      const { size, runs } = await this.#dataOf(record);
      return { name, size, runs, why: '' };
    } catch (error) {
      if (!(error instanceof Unclear)) throw error;
      return { name, size: 0, runs: undefined, why: error.message };
    }
  }

  async #dataOf(record: Record): Promise<{ size: number; runs: Run[] }> {
    const parts = await this.#all(record, STANDARD.data);
    const [first] = parts;
    if (!first) throw new Unclear('it has no data');
    if (first.resident) throw new Unclear('its content stands in its record');
    const runs: Run[] = [];
    let next = 0;
    for (const part of parts) {
      if (part.flags !== 0) throw new Unclear('it is compressed, encrypted or sparse');
      if (part.resident || part.firstCluster !== next)
        throw new Unclear('its parts do not follow each other');
      for (const [place, count] of part.runs) {
        if (place === undefined) throw new Unclear('it has holes');
        runs.push([place * this.#cluster, count * this.#cluster]);
        next += count;
      }
      if (runs.length > MOST_RUNS) throw new Unclear(`it lies in more than ${MOST_RUNS} pieces`);
    }
    if (first.size > next * this.#cluster) throw new Unclear('its parts are not all there');
    return { size: first.size, runs };
  }

  /** Attributes of a type without a name, also where they lie in more records than one. In the order of their clusters. */
  async #all({ attributes }: Record, wanted: number): Promise<Attribute[]> {
    const of = (all: readonly Attribute[]) => all.filter(({ type, name }) => type === wanted && name === '');
    const list = attributes.find(({ type }) => type === STANDARD.list);
    if (!list) return of(attributes);
    if (list.size > MOST_LIST) throw new Unclear(`it has a list of attributes of ${list.size} bytes`);
    const bytes = list.resident ? list.value : await this.#at(list.runs, 0, list.size);
    const records = new Map<number, number>();
    for (let at = 0; at + 26 <= bytes.length; ) {
      const length = bytes.readUInt16LE(at + 4);
      if (length < 26 || at + length > bytes.length)
        throw new Unclear('its list of attributes makes no sense');
      const { number, sequence } = referenceAt(bytes, at + 16);
      if (bytes.readUInt32LE(at) === wanted && bytes[at + 6] === 0) records.set(number, sequence);
      at += length;
    }
    const parts: Attribute[] = [];
    for (const [number, sequence] of records) {
      const record = await this.record(number);
      if (record.sequence !== sequence) throw new Unclear('its parts are not all there');
      parts.push(...of(record.attributes));
    }
    return parts.sort((one, other) => one.firstCluster - other.firstCluster);
  }

  /** The restart pages at the beginning of $LogFile say whether it was closed, or nobody has written any. */
  async logUnrest(): Promise<string | undefined> {
    const unknown = 'its log cannot be found';
    const data = (await this.record(LOG)).attributes.find(
      ({ type, name }) => type === STANDARD.data && name === '',
    );
    if (!data || data.resident) return unknown;
    const log = await this.#at(data.runs, 0, 8192);
    for (const page of [log.subarray(0, 4096), log.subarray(4096)]) {
      if (page.every(byte => byte === 0xff)) continue;
      if (page.toString('latin1', 0, 4) !== 'RSTR') return 'its log makes no sense';
      const area = page.readUInt16LE(0x18);
      if (area + 16 > page.length) return 'its log makes no sense';
      const isClean = (page.readUInt16LE(area + 14) & 2) !== 0 || page.readUInt16LE(area + 12) === 0xffff;
      if (!isClean) return 'its log is to be replayed';
    }
    return undefined;
  }

  /** Bytes of what lies in `runs`. */
  async #at(runs: Attribute['runs'], offset: number, length: number): Promise<Buffer> {
    const pieces: Buffer[] = [];
    let start = 0;
    let [at, left] = [offset, length];
    for (const [place, count] of runs) {
      const end = start + count * this.#cluster;
      if (left > 0 && at < end) {
        if (place === undefined || place + count > this.#clusters)
          throw new Unclear('it leads out of itself');
        const bytes = Math.min(left, end - at);
        const piece = await this.#read(place * this.#cluster + at - start, bytes);
        if (piece.length < bytes) throw new Unclear('it leads out of itself');
        pieces.push(piece);
        at += bytes;
        left -= bytes;
      }
      start = end;
    }
    if (left > 0) throw new Unclear('it says more than it has');
    return Buffer.concat(pieces);
  }

  /** With the ends of its sectors put back. */
  #whole(bytes: Buffer): Buffer {
    const torn = () => new Unclear('a record of it is torn');
    const at = bytes.readUInt16LE(4);
    const count = bytes.readUInt16LE(6);
    if (count !== bytes.length / 512 + 1 || at + count * 2 > bytes.length) throw torn();
    for (let i = 1; i < count; i++) {
      if (bytes.readUInt16LE(i * 512 - 2) !== bytes.readUInt16LE(at)) throw torn();
      bytes.writeUInt16LE(bytes.readUInt16LE(at + i * 2), i * 512 - 2);
    }
    return bytes;
  }

  #parse(raw: Buffer): Record {
    if (raw.toString('latin1', 0, 4) !== 'FILE') throw new Unclear('a record of it is none');
    const bytes = this.#whole(raw);
    const flags = bytes.readUInt16LE(0x16);
    const attributes: Attribute[] = [];
    for (let at = bytes.readUInt16LE(0x14); at + 24 <= bytes.length; ) {
      if (bytes.readUInt32LE(at) === 0xffffffff) break;
      const length = bytes.readUInt32LE(at + 4);
      if (length < 24 || at + length > bytes.length) throw new Unclear('a record of it makes no sense');
      attributes.push(this.#attribute(bytes.subarray(at, at + length)));
      at += length;
    }
    return {
      sequence: bytes.readUInt16LE(0x10),
      isFile: (flags & 3) === 1,
      isBase: bytes.readBigUInt64LE(0x20) === 0n,
      attributes,
    };
  }

  #attribute(bytes: Buffer): Attribute {
    const makesNone = () => new Unclear('a record of it makes no sense');
    const nameAt = bytes.readUInt16LE(10);
    const name = bytes.toString('utf16le', nameAt, nameAt + bytes[9]! * 2);
    const common = { type: bytes.readUInt32LE(0), name, flags: bytes.readUInt16LE(12) };
    if (bytes[8] === 0) {
      const at = bytes.readUInt16LE(20);
      const length = bytes.readUInt32LE(16);
      if (at + length > bytes.length) throw makesNone();
      const value = bytes.subarray(at, at + length);
      return { ...common, resident: true, value, firstCluster: 0, runs: [], size: length };
    }
    if (bytes.length < 0x40) throw makesNone();
    return {
      ...common,
      resident: false,
      value: Buffer.alloc(0),
      firstCluster: Number(bytes.readBigUInt64LE(0x10)),
      runs: this.#runs(bytes, bytes.readUInt16LE(0x20)),
      size: Number(bytes.readBigUInt64LE(0x30)),
    };
  }

  /** Mapping pairs: a byte with two lengths, a count of clusters, and how far from the run before, if it is no hole. */
  #runs(bytes: Buffer, from: number): Attribute['runs'] {
    const wrong = () => new Unclear('its runs make no sense');
    const runs: [number | undefined, number][] = [];
    let place = 0;
    for (let at = from; ; ) {
      const head = bytes[at];
      if (head === undefined) throw wrong();
      if (head === 0) return runs;
      const [lengths, places] = [head & 15, head >> 4];
      if (lengths < 1 || lengths > 6 || places > 6 || at + 1 + lengths + places > bytes.length) throw wrong();
      const count = bytes.readUIntLE(at + 1, lengths);
      if (places > 0) place += bytes.readIntLE(at + 1 + lengths, places);
      if (count === 0 || count > this.#clusters || place < 0 || place + count > this.#clusters) throw wrong();
      runs.push([places > 0 ? place : undefined, count]);
      at += 1 + lengths + places;
    }
  }
}

function only(attributes: readonly Attribute[], type: number, name: string): Attribute {
  const found = attributes.find(one => one.type === type && one.name === name);
  if (!found) throw new Unclear('a record of it lacks what it must have');
  return found;
}

/** Of a node of an index of names that begins at `at`: references to what is called one of `names`. */
function entriesOf(bytes: Buffer, at: number, names: readonly string[]): [number, number][] {
  const found: [number, number][] = [];
  const end = Math.min(bytes.length, at + bytes.readUInt32LE(at + 4));
  let entry = at + bytes.readUInt32LE(at);
  while (entry + 16 <= end) {
    const length = bytes.readUInt16LE(entry + 8);
    const isLast = (bytes.readUInt16LE(entry + 12) & 2) !== 0;
    if (isLast || length < 16 || entry + length > end) break;
    const key = bytes.subarray(entry + 16, entry + length);
    if (names.includes(nameOf(key))) {
      const { number, sequence } = referenceAt(bytes, entry);
      found.push([number, sequence]);
    }
    entry += length;
  }
  return found;
}

/** A $FILE_NAME: in small letters, '' where it makes no sense. */
function nameOf(value: Buffer): string {
  if (value.length < 0x42) return '';
  const end = 0x42 + value[0x40]! * 2;
  return end > value.length ? '' : value.toString('utf16le', 0x42, end).toLowerCase();
}

const isIn = (value: Buffer, folder: number) => value.length >= 8 && referenceAt(value, 0).number === folder;

function referenceAt(bytes: Buffer, at: number): { number: number; sequence: number } {
  return { number: bytes.readUIntLE(at, 6), sequence: bytes.readUInt16LE(at + 6) };
}
