/**
 * The sections of one segment of an EWF image. Each begins with a descriptor of 76 bytes: its type, where the next one
 * begins, its length, and an Adler-32 of these. A chain that breaks, or that leads back, ends there and says why.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { adler32 } from './adler32.js';

const DESCRIPTOR = 76;

/** Bytes of the header of a segment, behind which the first section begins. */
export const SEGMENT_HEADER = 13;

export interface Section {
  readonly kind: 'section';
  readonly type: string;
  /** Bytes in the file: where its data begins, and where it ends. That may lie beyond the end of a file that was cut. */
  readonly data: number;
  readonly end: number;
}

export interface Break {
  readonly kind: 'break';
  readonly why: string;
}

/** The sections in order, the last one `next` or `done`; or a break, behind which nothing is known. */
export function* sections(file: ImageFile): Generator<Section | Break, void, undefined> {
  let at = SEGMENT_HEADER;
  for (;;) {
    const found = descriptor(file, at);
    yield found;
    if (found.kind === 'break' || found.type === 'next' || found.type === 'done') return;
    at = found.end;
  }
}

function descriptor(file: ImageFile, at: number): Section | Break {
  const broken = (why: string): Break => ({ kind: 'break', why: `the section at byte ${at} ${why}` });
  let bytes: Buffer;
  try {
    bytes = file.read(at, DESCRIPTOR);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return broken(`cannot be read: ${error.message}`);
    throw error;
  }
  if (bytes.length < DESCRIPTOR) return broken('is cut off by the end of the file');
  if (adler32(bytes.subarray(0, 72)) !== bytes.readUInt32LE(72)) return broken('does not match its checksum');
  const type = bytes.toString('latin1', 0, 16).split('\0', 1)[0]!;
  const next = Number(bytes.readBigUInt64LE(16));
  const size = Number(bytes.readBigUInt64LE(24));
  const data = at + DESCRIPTOR;
  // The last section points to itself.
  if (type === 'next' || type === 'done') return { kind: 'section', type, data, end: data };
  if (!Number.isSafeInteger(next) || next < data)
    return broken(`says that the next one begins at byte ${next}`);
  // Expert Witness 1.35 states no size. Two answers that differ would be two images in one file.
  if (size !== 0 && at + size !== next) {
    return broken(`has ${size} bytes, but says that the next one begins at byte ${next}`);
  }
  return { kind: 'section', type, data, end: next };
}

/** Up to `length` bytes of the section's data from byte `skip` on; fewer where it, or the file, ends. Throws IO. */
export function dataOf(file: ImageFile, section: Section, skip: number, length: number): Buffer {
  return file.read(section.data + skip, Math.max(0, Math.min(length, section.end - section.data - skip)));
}
