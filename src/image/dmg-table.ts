/**
 * Which chunk of a UDIF image lies where: a property list whose `blkx` are parts of the disk, each with a table of chunks.
 *
 * The tables bear no checksum. What can be held against them is that chunks follow each other without a gap, fill their part, and
 * that no two of them take the same bytes of the file.
 */
import { type Checksum, checksumIn, SECTOR, type Trailer } from './dmg-trailer.js';
import { childOf, type Element, parseXml } from './xml.js';

const MAGIC = 'mish';
const HEADER = 204;
const ENTRY = 40;

/** Parts of a disk, and chunks of all of them. */
const MOST_PARTS = 4096;
const MOST_CHUNKS = 2 ** 21;

export const KIND = {
  zero: 0,
  raw: 1,
  ignore: 2,
  adc: 0x80000004,
  zlib: 0x80000005,
  bzip2: 0x80000006,
  lzfse: 0x80000007,
  xz: 0x80000008,
  comment: 0x7ffffffe,
  end: 0xffffffff,
} as const;

export interface Part {
  readonly name: string;
  /** Bytes of the disk. */
  readonly start: number;
  readonly end: number;
  readonly checksum: Checksum;
  /** Why its chunks are not to be believed; '' where they are. */
  readonly why: string;
}

/** The chunks of a disk in their order, in columns. */
export interface Chunks {
  readonly count: number;
  readonly kind: Uint32Array;
  /** Bytes of the disk. */
  readonly start: Float64Array;
  readonly end: Float64Array;
  /** Bytes of the file. */
  readonly offset: Float64Array;
  readonly length: Float64Array;
  /** 1 where the bytes of the file are those of another chunk, too. */
  readonly twice: Uint8Array;
}

export interface Tables {
  /** Bytes of the disk. */
  readonly size: number;
  readonly parts: readonly Part[];
  readonly chunks: Chunks;
}

/** The tables in the text of a property list; a sentence where they cannot be read at all. */
export function tablesIn(text: string, trailer: Trailer): Tables | string {
  const root = parseXml(text);
  const fork = root?.name === 'plist' ? entryOf(childOf(root, 'dict'), 'resource-fork') : undefined;
  const list = entryOf(fork, 'blkx');
  if (list?.name !== 'array') return 'its property list is damaged, or names no parts of the disk';
  if (list.children.length > MOST_PARTS)
    return `it has ${list.children.length} parts, more than ${MOST_PARTS}`;
  const parts: Part[] = [];
  const rows: Row[] = [];
  for (const element of list.children) {
    const name = (entryOf(element, 'CFName') ?? entryOf(element, 'Name'))?.text ?? '';
    const bytes = base64(entryOf(element, 'Data')?.text ?? '');
    if (
      !bytes ||
      bytes.length < HEADER ||
      bytes.toString('latin1', 0, 4) !== MAGIC ||
      bytes.readUInt32BE(4) !== 1
    )
      return `the table of the part ${JSON.stringify(name)} is damaged`;
    const start = Number(bytes.readBigUInt64BE(8)) * SECTOR;
    const end = start + Number(bytes.readBigUInt64BE(16)) * SECTOR;
    const count = bytes.readUInt32BE(200);
    if (end > (trailer.size || Number.MAX_SAFE_INTEGER) || HEADER + count * ENTRY > bytes.length)
      return `the table of the part ${JSON.stringify(name)} is beyond the disk, or cut off`;
    if (rows.length + count > MOST_CHUNKS) return `it has more than ${MOST_CHUNKS} chunks`;
    const base = trailer.dataOffset + Number(bytes.readBigUInt64BE(24));
    const found = rowsIn(bytes, count, start, base);
    const why = typeof found === 'string' ? found : found.end === end ? '' : 'its chunks do not fill it';
    if (why === '' && typeof found !== 'string') for (const row of found.rows) rows.push(row);
    parts.push({ name, start, end, checksum: checksumIn(bytes, 64), why });
  }
  parts.sort((a, b) => a.start - b.start);
  for (let i = 1; i < parts.length; i++)
    if (parts[i]!.start < parts[i - 1]!.end) return 'two parts of the disk overlap';
  const size = trailer.size || (parts.at(-1)?.end ?? 0);
  if (size === 0) return 'the disk has no sectors';
  return { size, parts, chunks: columns(rows) };
}

interface Row {
  readonly kind: number;
  readonly start: number;
  readonly end: number;
  readonly offset: number;
  readonly length: number;
}

/** The chunks of one part from byte `start` of the disk; a sentence where they are not one behind the other. */
function rowsIn(
  bytes: Buffer,
  count: number,
  start: number,
  base: number,
): { rows: Row[]; end: number } | string {
  const rows: Row[] = [];
  let end = start;
  for (let at = HEADER; at < HEADER + count * ENTRY; at += ENTRY) {
    const kind = bytes.readUInt32BE(at);
    const first = start + Number(bytes.readBigUInt64BE(at + 8)) * SECTOR;
    const size = Number(bytes.readBigUInt64BE(at + 16)) * SECTOR;
    if (kind === KIND.end || kind === KIND.comment) {
      if (size !== 0) return 'a chunk that stands for nothing has sectors';
      if (kind === KIND.end) break;
      continue;
    }
    if (first !== end || !Number.isSafeInteger(first + size)) return 'its chunks do not follow each other';
    end = first + size;
    const offset = base + Number(bytes.readBigUInt64BE(at + 24));
    const length = Number(bytes.readBigUInt64BE(at + 32));
    if (size > 0) rows.push({ kind, start: first, end, offset, length });
  }
  return { rows, end };
}

function columns(rows: Row[]): Chunks {
  rows.sort((a, b) => a.start - b.start);
  const column = (of: (row: Row) => number) => Float64Array.from(rows, of);
  const chunks = {
    count: rows.length,
    kind: Uint32Array.from(rows, ({ kind }) => kind),
    start: column(({ start }) => start),
    end: column(({ end }) => end),
    offset: column(({ offset }) => offset),
    length: column(({ length }) => length),
    twice: new Uint8Array(rows.length),
  };
  // Chunks in the order of their bytes in the file: each that begins before an earlier one ends is in its way.
  const order = Uint32Array.from(rows, (_, i) => i)
    .filter(i => chunks.length[i]! > 0 && chunks.kind[i] !== KIND.zero && chunks.kind[i] !== KIND.ignore)
    .sort((a, b) => chunks.offset[a]! - chunks.offset[b]!);
  let furthest = -1;
  for (const i of order) {
    if (furthest >= 0 && chunks.offset[i]! < chunks.offset[furthest]! + chunks.length[furthest]!) {
      chunks.twice[i] = 1;
      chunks.twice[furthest] = 1;
    }
    const end = chunks.offset[i]! + chunks.length[i]!;
    if (furthest < 0 || end > chunks.offset[furthest]! + chunks.length[furthest]!) furthest = i;
  }
  return chunks;
}

/** What stands behind `<key>` of that name in a dictionary. */
function entryOf(dictionary: Element | undefined, key: string): Element | undefined {
  if (dictionary?.name !== 'dict') return undefined;
  const { children } = dictionary;
  const at = children.findIndex(({ name, text }, i) => i % 2 === 0 && name === 'key' && text === key);
  return at < 0 ? undefined : children[at + 1];
}

function base64(text: string): Buffer | undefined {
  const packed = text.replace(/\s+/g, '');
  if (packed.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(packed)) return undefined;
  return Buffer.from(packed, 'base64');
}
