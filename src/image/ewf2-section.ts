/**
 * One segment of an Ex01 image: its header, and its sections (libyal/libewf, documentation/Expert Witness Compression
 * Format 2 (EWF2).asciidoc). A section ends with its descriptor, which says where the one before it ends: they are read from
 * the end of the file to its start.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { adler32 } from './adler32.js';

export const MAGIC = 'EVF2\r\n\x81\0';
const HEADER = 32;
const DESCRIPTOR = 64;
/** "16-byte aligned", all of it. */
const STEP = 16;
/** Bytes that are looked through at once for the last descriptor of a file that was cut. */
const WINDOW = 2 ** 20;

/** Sections of one segment; EnCase writes two for some 1,600 chunks. */
const MOST_SECTIONS = 2 ** 20;

export const TYPE = {
  device: 1,
  case: 2,
  sectors: 3,
  table: 4,
  errors: 5,
  md5: 8,
  sha1: 9,
  next: 13,
  done: 15,
} as const;

const HASHED = 1;
export const ENCRYPTED = 2;

/** How chunks, and texts, are packed. */
export type Method = 'none' | 'zlib' | 'bzip2';
const METHODS: readonly Method[] = ['none', 'zlib', 'bzip2'];

export interface SegmentHeader {
  /** undefined where it is one that the specification does not have. */
  readonly method: Method | undefined;
  readonly methodNumber: number;
  readonly major: number;
  readonly number: number;
  /** Of all segments of one image, in hexadecimals. */
  readonly set: string;
}

export interface Section {
  readonly type: number;
  readonly flags: number;
  /** Bytes in the file: its data, with padding. */
  readonly data: number;
  readonly end: number;
  /** MD5 of the data in hexadecimals; undefined where none was taken. */
  readonly digest: string | undefined;
}

export interface Sections {
  /** In the order of the file. */
  readonly sections: readonly Section[];
  /** What lies behind the last section that could be found; undefined where the file ends with one that closes it. */
  readonly lost: string | undefined;
}

/** undefined where the file bears no such header. Throws IO. */
export function segmentHeader(file: ImageFile): SegmentHeader | undefined {
  const bytes = file.read(0, HEADER);
  if (bytes.length < HEADER || bytes.toString('latin1', 0, 8) !== MAGIC) return undefined;
  const methodNumber = bytes.readUInt16LE(10);
  return {
    major: bytes[8]!,
    method: METHODS[methodNumber],
    methodNumber,
    number: bytes.readUInt32LE(12),
    set: bytes.toString('hex', 16, 32),
  };
}

/**
 * The sections of a segment. A file that does not end with a descriptor was cut, or is still written to: the last one in it
 * is looked for whose chain leads back to the header. Throws IO.
 */
export function sectionsOf(file: ImageFile): Sections {
  const whole = file.size >= HEADER + DESCRIPTOR ? chainFrom(file, file.size - DESCRIPTOR) : undefined;
  if (whole) {
    const last = whole.at(-1)!;
    const closed = last.type === TYPE.next || last.type === TYPE.done;
    return { sections: whole, lost: closed ? undefined : 'it is not closed: it was still being written to' };
  }
  const lost = 'it does not end with the description of a section: it was cut off, or is damaged there';
  for (let end = file.size - (file.size % STEP); end > HEADER; end -= WINDOW) {
    const from = Math.max(HEADER, end - WINDOW);
    const bytes = file.read(from, end - from + DESCRIPTOR);
    for (let at = end - from - STEP; at >= 0; at -= STEP) {
      if (bytes.length - at < DESCRIPTOR || bytes.readUInt32LE(at + 24) !== DESCRIPTOR) continue;
      if (!isDescriptor(bytes.subarray(at, at + DESCRIPTOR))) continue;
      // Evidence may hold images: a descriptor in a chunk leads to no header of this file.
      const found = chainFrom(file, from + at);
      if (found) return { sections: found, lost };
    }
  }
  return { sections: [], lost };
}

/** The sections up to the one whose descriptor stands at `at`; undefined where their chain does not reach the header. */
function chainFrom(file: ImageFile, at: number): Section[] | undefined {
  const found: Section[] = [];
  for (;;) {
    const bytes = file.read(at, DESCRIPTOR);
    if (bytes.length < DESCRIPTOR || !isDescriptor(bytes)) return undefined;
    const previous = Number(bytes.readBigUInt64LE(8));
    const size = Number(bytes.readBigUInt64LE(16));
    const data = at - size;
    const floor = previous === 0 ? HEADER : previous + DESCRIPTOR;
    if (data < floor || (previous === 0 && data !== HEADER)) return undefined;
    const flags = bytes.readUInt32LE(4);
    const digest = flags & HASHED ? bytes.toString('hex', 32, 48) : undefined;
    found.push({ type: bytes.readUInt32LE(0), flags, data, end: at, digest });
    if (previous === 0) return found.reverse();
    if (found.length >= MOST_SECTIONS) {
      throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: more than ${MOST_SECTIONS} sections`);
    }
    at = previous;
  }
}

function isDescriptor(bytes: Buffer): boolean {
  return bytes.readUInt32LE(24) === DESCRIPTOR && adler32(bytes.subarray(0, 60)) === bytes.readUInt32LE(60);
}
