/**
 * Extents: where the bytes of a run of a disk live.
 *
 * A run has no start of its own: a list of runs is read in order, each beginning where the one before ended, so
 * that a mapping (a window, a stack of layers, a concatenation) never has to shift anything. Lengths and offsets
 * are bytes, integers from 0 to 2^53 - 1. No run is empty.
 */
import type { ImageFile } from './file.js';

/**
 * How a packed block is packed. `deflate` is raw (RFC 1951, no zlib header); `zstd` is one frame or more (RFC 8878);
 * `zlib` is one stream with its Adler-32, which is verified (RFC 1950); `adler32` is plain, with the Adler-32 of it, four
 * bytes, little-endian, behind: it is verified, too. `bzip2` is one stream, whose checksums are verified. `pattern`: the packed
 * bytes, repeated. `adc` and `lzfse` (with LZVN) are Apple's, without checksums; `xz` is one stream, whose checks are verified. `lz4` is
 * one block, without a frame, and `snappy` one stream without a frame; neither has checksums.
 */
export const CODECS = [
  'deflate',
  'zstd',
  'zlib',
  'adler32',
  'bzip2',
  'pattern',
  'adc',
  'lzfse',
  'xz',
  'lz4',
  'snappy',
] as const;
export type Codec = (typeof CODECS)[number];

/** Reads as zeros. `by` is the file that says so; absent where no member of the chain says anything. */
export interface ZeroExtent {
  readonly kind: 'zero';
  readonly length: number;
  readonly by?: ImageFile | undefined;
}

/** Lies in `file`, plain, from `offset`. */
export interface DataExtent {
  readonly kind: 'data';
  readonly length: number;
  readonly file: ImageFile;
  readonly offset: number;
}

/**
 * Lies in `file` within one packed block: `packedLength` bytes from `offset` unpack to `unpackedLength` bytes, of
 * which this run is the `length` bytes from `skip`. The packed bytes may be followed by padding that is not theirs.
 */
export interface PackedExtent {
  readonly kind: 'packed';
  readonly length: number;
  readonly file: ImageFile;
  readonly offset: number;
  readonly packedLength: number;
  readonly codec: Codec;
  readonly unpackedLength: number;
  readonly skip: number;
}

/** Cannot be vouched for; `why` is a sentence for the defect list. `by` is the file at fault. */
export interface BadExtent {
  readonly kind: 'bad';
  readonly length: number;
  readonly why: string;
  readonly by?: ImageFile | undefined;
}

export type Extent = ZeroExtent | DataExtent | PackedExtent | BadExtent;

/** Only in a layer: it says nothing here, so what lies below answers. */
export interface AbsentExtent {
  readonly kind: 'absent';
  readonly length: number;
}

export type LayerExtent = Extent | AbsentExtent;

/** The part of `extent` that begins `skip` bytes into it and is `length` bytes long. */
export function slice<E extends LayerExtent>(extent: E, skip: number, length: number): E {
  if (skip === 0 && length === extent.length) return extent;
  switch (extent.kind) {
    case 'data':
      return { ...extent, length, offset: extent.offset + skip };
    case 'packed':
      return { ...extent, length, skip: extent.skip + skip };
    default:
      return { ...extent, length };
  }
}

/** The one run that `a` and, directly behind it, `b` make; undefined where they are two. */
export function join<E extends LayerExtent>(a: E, b: E): E | undefined {
  if (a.kind !== b.kind) return undefined;
  const length = a.length + b.length;
  switch (a.kind) {
    case 'absent':
      return { ...a, length };
    case 'zero':
      return b.kind === 'zero' && a.by === b.by ? { ...a, length } : undefined;
    case 'bad':
      return b.kind === 'bad' && a.why === b.why && a.by === b.by ? { ...a, length } : undefined;
    case 'data':
      return b.kind === 'data' && a.file === b.file && a.offset + a.length === b.offset
        ? { ...a, length }
        : undefined;
    case 'packed':
      return b.kind === 'packed' &&
        a.file === b.file &&
        a.offset === b.offset &&
        a.codec === b.codec &&
        a.packedLength === b.packedLength &&
        a.unpackedLength === b.unpackedLength &&
        a.skip + a.length === b.skip
        ? { ...a, length }
        : undefined;
  }
}

/** Pieces that one joined run takes: bounds the work of a caller who wants the first run only. */
const MOST_PIECES = 4096;

/** The same runs with neighbours that make one joined, up to a bounded number of pieces. */
export function* joined<E extends LayerExtent>(extents: Iterable<E>): Generator<E, void, undefined> {
  let last: E | undefined;
  let pieces = 0;
  for (const extent of extents) {
    const both = last && pieces < MOST_PIECES ? join(last, extent) : undefined;
    if (last && !both) yield last;
    pieces = both ? pieces + 1 : 1;
    last = both ?? extent;
  }
  if (last) yield last;
}
