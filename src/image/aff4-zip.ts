/**
 * The container of AFF4: a zip, with zip64 where it is large (PKWARE, APPNOTE.TXT). What lies in it is found by the central
 * directory alone; a name that is there twice would have two meanings, and is refused.
 */
import { inflateRawSync } from 'node:zlib';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;

/** Bytes of the directory, and of a member that is read whole. */
const MOST_DIRECTORY = 64 * 2 ** 20;
const MOST_MEMBER = 64 * 2 ** 20;

export interface Member {
  readonly name: string;
  /** 0: as it is; 8: deflated. */
  readonly method: number;
  readonly crc: number;
  readonly size: number;
  readonly packed: number;
  /** Where its local header stands. */
  readonly at: number;
}

export const looksLikeZip = (file: ImageFile) => file.size >= 4 && file.read(0, 4).readUInt32LE(0) === LOCAL;

export class Zip {
  readonly file: ImageFile;
  /** Names as the container writes them. */
  readonly members: ReadonlyMap<string, Member>;
  readonly comment: string;

  /** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, or IO. */
  constructor(file: ImageFile) {
    const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
    const tail = file.read(Math.max(0, file.size - 65_557), 65_557);
    let end = tail.length - 22;
    while (
      end >= 0 &&
      !(tail.readUInt32LE(end) === END && end + 22 + tail.readUInt16LE(end + 20) === tail.length)
    )
      end--;
    if (end < 0) throw corrupt('the container has no directory at its end: it was cut off');
    let count = tail.readUInt16LE(end + 10);
    let length = tail.readUInt32LE(end + 12);
    let start = tail.readUInt32LE(end + 16);
    if (end >= 20 && tail.readUInt32LE(end - 20) === LOCATOR64) {
      const record = file.read(Number(tail.readBigUInt64LE(end - 12)), 56);
      if (record.length < 56 || record.readUInt32LE(0) !== END64) throw corrupt('its directory is damaged');
      count = Number(record.readBigUInt64LE(32));
      length = Number(record.readBigUInt64LE(40));
      start = Number(record.readBigUInt64LE(48));
    }
    if (length > MOST_DIRECTORY)
      throw new AsofError(
        'IMAGE_UNSUPPORTED',
        `${file.path}: a directory of ${length} bytes is longer than ${MOST_DIRECTORY}`,
      );
    const members = directory(file.read(start, length), count);
    if (!members) throw corrupt('its directory is damaged');
    this.file = file;
    this.members = members;
    this.comment = tail.toString('latin1', end + 22).replace(/\0+$/, '');
  }

  /** Where the bytes of a member begin; a sentence where its header does not agree with the directory. */
  dataOf({ name, at, packed, method }: Member): number | string {
    const here = `${this.file.path}: ${name}`;
    const head = this.file.read(at, 30);
    if (head.length < 30 || head.readUInt32LE(0) !== LOCAL || head.readUInt16LE(8) !== method)
      return `${here} is not where the directory says`;
    const nameLength = head.readUInt16LE(26);
    if (this.file.read(at + 30, nameLength).toString('utf8') !== name)
      return `${here} is not where the directory says`;
    const start = at + 30 + nameLength + head.readUInt16LE(28);
    return start + packed > this.file.size ? `${here} lies beyond the end of the file` : start;
  }

  /** All of a member, verified; a sentence where that cannot be. */
  read(member: Member): Buffer | string {
    const { name, size, packed, method, crc } = member;
    const here = `${this.file.path}: ${name}`;
    if (size > MOST_MEMBER || packed > MOST_MEMBER)
      return `${here} has ${size} bytes, more than ${MOST_MEMBER}`;
    try {
      const start = this.dataOf(member);
      if (typeof start === 'string') return start;
      const held = this.file.read(start, packed);
      const bytes = method === 0 ? held : method === 8 ? inflated(held, size) : undefined;
      if (!bytes) return `${here} does not unpack`;
      const sound = bytes.length === size && loadAddon().crc32(0, bytes) === crc;
      return sound ? bytes : `${here} does not match its checksum`;
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO')
        return `${here} cannot be read: ${error.message}`;
      throw error;
    }
  }
}

function inflated(packed: Buffer, size: number): Buffer | undefined {
  try {
    return inflateRawSync(packed, { maxOutputLength: size + 1 });
  } catch {
    return undefined;
  }
}

function directory(bytes: Buffer, count: number): Map<string, Member> | undefined {
  const members = new Map<string, Member>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > bytes.length || bytes.readUInt32LE(at) !== CENTRAL) return undefined;
    const nameLength = bytes.readUInt16LE(at + 28);
    const extraLength = bytes.readUInt16LE(at + 30);
    const next = at + 46 + nameLength + extraLength + bytes.readUInt16LE(at + 32);
    if (next > bytes.length) return undefined;
    const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
    const extra = bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength);
    // What does not fit into 32 bits stands in the extra field, in this order.
    const wide = [bytes.readUInt32LE(at + 24), bytes.readUInt32LE(at + 20), bytes.readUInt32LE(at + 42)];
    const [size, packed, header] = widened(wide, extra) ?? [];
    if (size === undefined || packed === undefined || header === undefined) return undefined;
    const method = bytes.readUInt16LE(at + 10);
    if (members.has(name) || (method === 0 && size !== packed)) return undefined;
    members.set(name, { name, method, crc: bytes.readUInt32LE(at + 16), size, packed, at: header });
    at = next;
  }
  return at === bytes.length ? members : undefined;
}

function widened(values: readonly number[], extra: Buffer): number[] | undefined {
  let field: Buffer = Buffer.alloc(0);
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2))
    if (extra.readUInt16LE(at) === 1) field = extra.subarray(at + 4, at + 4 + extra.readUInt16LE(at + 2));
  let used = 0;
  const result: number[] = [];
  for (const value of values) {
    if (value !== 0xffffffff) {
      result.push(value);
      continue;
    }
    if (used + 8 > field.length) return undefined;
    const wide = Number(field.readBigUInt64LE(used));
    if (!Number.isSafeInteger(wide)) return undefined;
    result.push(wide);
    used += 8;
  }
  return result;
}
