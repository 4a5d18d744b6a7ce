/**
 * What the sections volume, disk and data of an EWF image say of the disk: three names for one content, in the long
 * form of EnCase or the short one of the first specification and SMART.
 */
import { adler32 } from './adler32.js';

const LONG = 1052;
const SHORT = 94;

const MEDIA: Readonly<Record<number, string>> = {
  0: 'removable',
  1: 'fixed',
  3: 'optical',
  14: 'logical evidence',
  16: 'memory',
};

export interface Volume {
  readonly chunks: number;
  readonly sectorsPerChunk: number;
  readonly bytesPerSector: number;
  readonly sectors: number;
  /** In words; of the long form only. */
  readonly media: string | undefined;
  /** Identifies the segments of one image, in hexadecimals; '' where the program gave them none. */
  readonly set: string;
  /** The first specification's: its tables have no checksum, and its chunks lie within the tables' sections. */
  readonly short: boolean;
}

/** The volume that `bytes`, the whole data of such a section, states; undefined where the checksum is wrong. */
export function parseVolume(bytes: Buffer): Volume | undefined {
  const short = bytes.length < LONG;
  const length = short ? SHORT : LONG;
  if (bytes.length < length) return undefined;
  if (adler32(bytes.subarray(0, length - 4)) !== bytes.readUInt32LE(length - 4)) return undefined;
  return {
    chunks: bytes.readUInt32LE(4),
    sectorsPerChunk: bytes.readUInt32LE(8),
    bytesPerSector: bytes.readUInt32LE(12),
    sectors: short ? bytes.readUInt32LE(16) : Number(bytes.readBigUInt64LE(16)),
    media: short ? undefined : (MEDIA[bytes[0]!] ?? `type ${bytes[0]}`),
    set: short ? '' : bytes.toString('hex', 64, 80).replace(/^0+$/, ''),
    short,
  };
}

/** Bytes that hold a volume in either form. */
export const VOLUME_BYTES = LONG;

/** Whether two segments that say this belong together. */
export function sameSet(a: Volume, b: Volume): boolean {
  return (
    a.set === b.set &&
    a.sectors === b.sectors &&
    a.chunks === b.chunks &&
    a.sectorsPerChunk === b.sectorsPerChunk &&
    a.bytesPerSector === b.bytesPerSector
  );
}
