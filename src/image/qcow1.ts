/**
 * qcow version 1, the format before qcow2: two levels of tables, deflate clusters, a base.
 *
 * It has no specification but its code (QEMU, block/qcow.c) and libqcow's documentation. An L1 entry is the offset of
 * an L2 table, an L2 entry that of a cluster, or, with bit 63, of a compressed one whose length stands in the bits
 * below. Nothing marks zeros, and nothing states the format of the base.
 */
import { joined, type LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import type { Finding } from './finding.js';
import type { Image, ImageFormat, ParentLink } from './format.js';
import { PAGE, Pages } from './pages.js';

const MAGIC = 'QFI\xfb\0\0\0\x01';
const HEADER = 48;
const HIGH = 2 ** 32;

/** Entries of an L1 table: one in a sparse file could take hours to walk. A disk of 8 TiB in QEMU's own geometry. */
const MOST_L1 = 2 ** 22;

/** Entries that one run crosses: bounds what a caller pays who wants the first run only. */
const STRIDE = 4096;

export const qcow1: ImageFormat = {
  name: 'qcow',
  probe(file) {
    if (file.read(0, 8).toString('latin1') !== MAGIC) return 'no';
    try {
      parse(file);
      return 'yes';
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO') return error;
      throw error;
    }
  },
  open(file): Image {
    if (file.read(0, 8).toString('latin1') !== MAGIC) {
      throw new AsofError('IMAGE_CORRUPT', `${file.path} is not a qcow image of version 1`);
    }
    const header = parse(file);
    const layer = new Qcow1Layer(file, header);
    return {
      file,
      format: 'qcow',
      size: header.size,
      sectorSize: 512,
      features: ['version=1', `cluster-size=${2 ** header.clusterBits}`, 'compression=zlib'],
      layer,
      snapshots: [],
      parent: header.parent,
      dataFile: undefined,
      troubles: [],
      check: () => examine(file, layer),
    };
  },
};

interface Header {
  readonly size: number;
  readonly clusterBits: number;
  readonly l2Bits: number;
  readonly l1Offset: number;
  readonly parent: ParentLink | undefined;
}

function parse(file: ImageFile): Header {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const bytes = file.read(0, HEADER);
  if (bytes.length < HEADER) throw corrupt(`the file ends at byte ${file.size}, within the header`);
  const number = (at: number, what: string) => {
    const value = bytes.readBigUInt64BE(at);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw corrupt(`the ${what}, ${value}, is beyond 2^53`);
    return Number(value);
  };
  const clusterBits = bytes[32]!;
  const l2Bits = bytes[33]!;
  if (clusterBits < 9 || clusterBits > 16)
    throw corrupt(`clusters of 2^${clusterBits} bytes are not between 2^9 and 2^16`);
  if (l2Bits < 6 || l2Bits > 13)
    throw corrupt(`L2 tables of 2^${l2Bits} entries are not between 2^6 and 2^13`);
  const size = number(24, 'virtual size');
  const l1Entries = Math.ceil(size / 2 ** (clusterBits + l2Bits));
  if (l1Entries > MOST_L1) {
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: an L1 table of ${l1Entries} entries is longer than ${MOST_L1}`,
    );
  }
  const method = bytes.readUInt32BE(36);
  if (method === 1) throw new AsofError('IMAGE_ENCRYPTED', `${file.path} is encrypted with AES`);
  if (method !== 0) throw corrupt(`the encryption method ${method} is neither 0 nor 1`);
  const nameOffset = number(8, 'offset of the backing file name');
  const nameLength = bytes.readUInt32BE(16);
  let parent: ParentLink | undefined;
  if (nameOffset !== 0 && nameLength !== 0) {
    if (nameLength > 1023) throw corrupt(`a backing file name of ${nameLength} bytes is longer than 1023`);
    const name = file.read(nameOffset, nameLength);
    if (name.length < nameLength) throw corrupt('the file ends within the name of its backing file');
    parent = { name: name.toString('utf8'), format: undefined };
  }
  const l1Offset = number(40, 'offset of the L1 table');
  if (l1Offset < HEADER || l1Offset % 8 !== 0) throw corrupt(`the L1 table stands at byte ${l1Offset}`);
  return { size, clusterBits, l2Bits, l1Offset, parent };
}

class Qcow1Layer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #pages: Pages;
  readonly #header: Header;
  readonly #cluster: number;
  readonly #reach: number;

  constructor(file: ImageFile, header: Header) {
    this.size = header.size;
    this.#file = file;
    this.#pages = new Pages(file);
    this.#header = header;
    this.#cluster = 2 ** header.clusterBits;
    this.#reach = this.#cluster * 2 ** header.l2Bits;
  }

  extents(offset: number, length: number): Iterable<LayerExtent> {
    checkRange(this.size, offset, length);
    return this.#walk(offset, offset + length);
  }

  close(): void {}

  *#walk(offset: number, end: number): Generator<LayerExtent, void, undefined> {
    while (offset < end) {
      const index = Math.floor(offset / this.#reach);
      const at = this.#header.l1Offset + index * 8;
      const entry = this.#entry(at);
      if (typeof entry === 'string') {
        // The rest of the table is beyond the end, too; an error of the disk may be of this page alone.
        const next = at + 8 > this.#file.size ? end : (index + 1) * this.#reach;
        yield this.#bad(`the L1 table ${entry}`, Math.min(end, next) - offset);
        offset = Math.min(end, next);
        continue;
      }
      const table = entry.hi * HIGH + entry.lo;
      if (table !== 0) {
        const stop = Math.min(end, (index + 1) * this.#reach);
        yield* this.#walkTable(table, offset, stop);
        offset = stop;
        continue;
      }
      let next = index + 1;
      const last = Math.min(index + STRIDE, Math.ceil(end / this.#reach));
      while (next < last && this.#isEmpty(this.#header.l1Offset + next * 8)) next++;
      const stop = Math.min(end, next * this.#reach);
      yield { kind: 'absent', length: stop - offset };
      offset = stop;
    }
  }

  *#walkTable(table: number, offset: number, end: number): Generator<LayerExtent, void, undefined> {
    const first = offset - (offset % this.#reach);
    if (table < HEADER || table % 8 !== 0 || table >= this.#file.size) {
      const why =
        table >= this.#file.size ? 'lies beyond the end of the file' : `cannot stand at byte ${table}`;
      yield this.#bad(`the L2 table ${why}`, end - offset);
      return;
    }
    while (offset < end) {
      const index = Math.floor((offset - first) / this.#cluster);
      const cluster = first + index * this.#cluster;
      const stop = Math.min(end, cluster + this.#cluster);
      const entry = this.#entry(table + index * 8);
      if (typeof entry === 'string') yield this.#bad(`the L2 table ${entry}`, stop - offset);
      else yield* this.#single(entry.hi, entry.lo, offset - cluster, stop - offset);
      offset = stop;
    }
  }

  *#single(hi: number, lo: number, skip: number, length: number): Generator<LayerExtent, void, undefined> {
    if (hi === 0 && lo === 0) {
      yield { kind: 'absent', length };
    } else if (hi < 2 ** 31 && lo % 512 !== 0) {
      yield this.#bad('the cluster does not stand at a sector boundary', length);
    } else if (hi < 2 ** 31) {
      const offset = hi * HIGH + lo + skip;
      const held = offset < HEADER ? 0 : Math.max(0, Math.min(length, this.#file.size - offset));
      if (held > 0) yield { kind: 'data', length: held, file: this.#file, offset };
      const why = offset < HEADER ? 'lies within the header' : 'lies beyond the end of the file';
      if (held < length) yield this.#bad(`the cluster ${why}`, length - held);
    } else {
      yield this.#packed(hi, lo, skip, length);
    }
  }

  #packed(hi: number, lo: number, skip: number, length: number): LayerExtent {
    const shift = 63 - this.#header.clusterBits - 32;
    const offset = (hi & (2 ** shift - 1)) * HIGH + lo;
    const packedLength = (hi >>> shift) & (this.#cluster - 1);
    if (offset < HEADER || packedLength === 0)
      return this.#bad('the compressed cluster has no place', length);
    if (offset + packedLength > this.#file.size) {
      return this.#bad('the compressed cluster lies beyond the end of the file', length);
    }
    return {
      kind: 'packed',
      length,
      file: this.#file,
      offset,
      packedLength,
      codec: 'deflate',
      unpackedLength: this.#cluster,
      skip,
    };
  }

  #isEmpty(at: number): boolean {
    const entry = this.#entry(at);
    return typeof entry !== 'string' && entry.hi === 0 && entry.lo === 0;
  }

  /** The two words of the entry at byte `at`, or why they cannot be known. */
  #entry(at: number): { hi: number; lo: number } | string {
    try {
      const page = this.#pages.page(Math.floor(at / PAGE));
      const within = at % PAGE;
      if (within + 8 > page.bytes) return 'lies beyond the end of the file';
      return { hi: page.words[within / 4]!, lo: page.words[within / 4 + 1]! };
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO') return `cannot be read: ${error.message}`;
      throw error;
    }
  }

  #bad(why: string, length: number): LayerExtent {
    return { kind: 'bad', length, why, by: this.#file };
  }
}

/** There are no refcounts: what can be wrong is what cannot be read. */
function* examine(file: ImageFile, layer: Layer): Generator<Finding, void, undefined> {
  let offset = 0;
  for (const run of joined(layer.extents(0, layer.size))) {
    const range = { offset, length: run.length };
    if (run.kind === 'bad') {
      yield { severity: 'defect', kind: 'range', member: file.path, what: run.why, count: 1, range };
    }
    offset += run.length;
  }
}
