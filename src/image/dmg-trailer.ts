/**
 * The last 512 bytes of a UDIF image: where its data and its tables lie, and checksums of both (libyal/libmodi, documentation/Mac
 * OS disk image types). Numbers are big-endian.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';

export const TRAILER = 512;
export const SECTOR = 512;
const MAGIC = 'koly';

/** The one kind of checksum that hdiutil writes today. */
export const CRC32 = 2;

/** Bytes of tables as text: of a disk of some tens of terabytes. */
const MOST_TABLES = 64 * 2 ** 20;

export interface Checksum {
  readonly type: number;
  /** Lower-case hexadecimals. */
  readonly value: string;
}

export interface Trailer {
  /** Bytes of the file. */
  readonly dataOffset: number;
  readonly dataEnd: number;
  readonly tablesOffset: number;
  readonly tablesLength: number;
  /** Bytes of the disk; 0 where the trailer does not say: its parts do. */
  readonly size: number;
  /** Of the packed data, and of the checksums of all parts. */
  readonly data: Checksum;
  readonly master: Checksum;
}

export const bearsTrailer = (file: ImageFile) =>
  file.size >= TRAILER && file.read(file.size - TRAILER, 4).toString('latin1') === MAGIC;

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, or IO. */
export function trailerOf(file: ImageFile): Trailer {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const unsupported = (what: string) => new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`);
  const bytes = file.read(file.size - TRAILER, TRAILER);
  const u64 = (at: number) => Number(bytes.readBigUInt64BE(at));
  const version = bytes.readUInt32BE(4);
  if (version !== 4 || bytes.readUInt32BE(8) !== TRAILER)
    throw unsupported(`its trailer has the version ${version} and ${bytes.readUInt32BE(8)} bytes`);
  const segments = bytes.readUInt32BE(60);
  // Segments are cut anywhere; no tool here makes them.
  if (segments > 1)
    throw unsupported(
      `it is segment ${bytes.readUInt32BE(56)} of ${segments}: hdiutil convert makes one file of them`,
    );
  const dataOffset = u64(24);
  const dataEnd = dataOffset + u64(32);
  if (dataEnd > file.size - TRAILER)
    throw corrupt(`its data is said to end at byte ${dataEnd}: it was cut off`);
  const tablesOffset = u64(216);
  const tablesLength = u64(224);
  if (tablesLength === 0) {
    if (u64(48) > 0) throw unsupported('its tables lie in a resource fork, and not in a property list');
    throw corrupt('it has no tables');
  }
  if (tablesLength > MOST_TABLES)
    throw unsupported(`tables of ${tablesLength} bytes are longer than ${MOST_TABLES}`);
  if (tablesOffset + tablesLength > file.size - TRAILER)
    throw corrupt(`its tables are said to end at byte ${tablesOffset + tablesLength}: it was cut off`);
  const size = u64(492) * SECTOR;
  if (!Number.isSafeInteger(size)) throw corrupt(`the disk has ${u64(492)} sectors`);
  const sum = (at: number): Checksum => checksumIn(bytes, at);
  return { dataOffset, dataEnd, tablesOffset, tablesLength, size, data: sum(80), master: sum(352) };
}

/** A type, a number of bits, and room for 1024 of them. */
export function checksumIn(bytes: Buffer, at: number): Checksum {
  const bits = Math.min(bytes.readUInt32BE(at + 4), 1024);
  return { type: bytes.readUInt32BE(at), value: bytes.toString('hex', at + 8, at + 8 + bits / 8) };
}
