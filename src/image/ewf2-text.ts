/**
 * What the sections of an Ex01 image say beside its chunks: texts of attributes, the acquiry's bad sectors, digests (EWF2,
 * "Device information", "Error table", "MD5 hash").
 */
import { createHash } from 'node:crypto';
import { inflateSync } from 'node:zlib';
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';
import { adler32 } from './adler32.js';
import type { Method, Section } from './ewf2-section.js';

/** Bytes of a packed text, and of an unpacked one. */
const MOST_PACKED = 2 ** 20;
const MOST = 4 * 2 ** 20;
/** Runs of sectors that one list of an acquiry names. */
const MOST_BAD = 2 ** 20;

/** The attributes of the first object: tags in the third line, values in the fourth. undefined where it is no such text. */
export function textIn(file: ImageFile, section: Section, method: Method): Map<string, string> | undefined {
  const packed = dataOf(file, section, MOST_PACKED);
  if (section.digest && createHash('md5').update(packed).digest('hex') !== section.digest) return undefined;
  const bytes = unpacked(packed, method);
  if (!bytes || bytes.length < 2) return undefined;
  const from = bytes.readUInt16LE(0) === 0xfeff ? 2 : 0;
  const lines = bytes.toString('utf16le', from, bytes.length - (bytes.length % 2)).split(/\r\n|\n|\r/);
  if (lines.length < 4 || lines[1] !== 'main') return undefined;
  const cells = lines[3]!.split('\t');
  return new Map(lines[2]!.split('\t').map((key, i) => [key, cells[i] ?? '']));
}

function unpacked(bytes: Buffer, method: Method): Buffer | undefined {
  if (method === 'bzip2') return loadAddon().unbzip2(bytes, MOST);
  try {
    return inflateSync(bytes, { maxOutputLength: MOST });
  } catch {
    // An image that packs nothing may not pack its texts.
    return method === 'none' ? bytes : undefined;
  }
}

/** First and count of each run of sectors alternate; undefined where a checksum is wrong. Throws IMAGE_UNSUPPORTED. */
export function errorsIn(file: ImageFile, section: Section): number[] | undefined {
  const head = dataOf(file, section, 20);
  if (head.length < 20 || adler32(head.subarray(0, 16)) !== head.readUInt32LE(16)) return undefined;
  const count = head.readUInt32LE(0);
  if (count > MOST_BAD) {
    const what = `${file.path}: ${count} runs of bad sectors are more than ${MOST_BAD}`;
    throw new AsofError('IMAGE_UNSUPPORTED', what);
  }
  const end = 32 + count * 16;
  const bytes = dataOf(file, section, end + 4);
  if (bytes.length < end + 4) return undefined;
  const list = bytes.subarray(32, end);
  if (adler32(list) !== bytes.readUInt32LE(end)) return undefined;
  return Array.from({ length: count * 2 }, (_, i) =>
    i % 2 ? list.readUInt32LE((i - 1) * 8 + 8) : Number(list.readBigUInt64LE(i * 8)),
  );
}

/** In hexadecimals; undefined where its checksum is wrong. */
export function digestIn(file: ImageFile, section: Section, length: number): string | undefined {
  const bytes = dataOf(file, section, length + 4);
  if (bytes.length < length + 4 || adler32(bytes.subarray(0, length)) !== bytes.readUInt32LE(length))
    return undefined;
  return bytes.toString('hex', 0, length);
}

/** Nothing where the file cannot be read there: what is checked then does not match. */
function dataOf(file: ImageFile, { data, end }: Section, length: number): Buffer {
  try {
    return file.read(data, Math.min(length, end - data));
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return Buffer.alloc(0);
    throw error;
  }
}
