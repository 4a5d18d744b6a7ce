/**
 * The header of a qcow2 image: parsed once, checked against the file, in words where it is refused.
 *
 * Specification: QEMU, docs/interop/qcow2.rst, "Header" and "Header extensions". What is needed to read must be
 * right or the image is refused; what only a writer needs (refcounts) is left to the doctor.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';

export const MAGIC = 'QFI\xfb';

/** Bits of incompatible_features. */
export const DIRTY = 1n;
export const CORRUPT = 2n;
const DATA_FILE = 4n;
const COMPRESSION = 8n;
const EXTENDED_L2 = 16n;
const KNOWN = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

const LAZY_REFCOUNTS = 1n;
/** Bits of autoclear_features. */
export const BITMAPS = 1n;
const DATA_FILE_RAW = 2n;

const EXTENSION = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  dataFile: 0x44415441,
} as const;

/** Bytes of the longest name of a backing file. */
const LONGEST_NAME = 1023;

export interface BitmapsExtension {
  readonly count: number;
  readonly directorySize: number;
  readonly directoryOffset: number;
}

export interface Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Bytes. */
  readonly clusterSize: number;
  /** Bytes of the virtual disk. */
  readonly size: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  /** A refcount has 2 to the power of this many bits. */
  readonly refcountOrder: number;
  readonly snapshotsOffset: number;
  readonly snapshotCount: number;
  readonly headerLength: number;
  readonly backingName: string | undefined;
  readonly backingFormat: string | undefined;
  readonly codec: 'deflate' | 'zstd';
  readonly extendedL2: boolean;
  readonly hasDataFile: boolean;
  readonly dataFileName: string | undefined;
  readonly dataFileRaw: boolean;
  readonly lazyRefcounts: boolean;
  readonly bitmaps: BitmapsExtension | undefined;
  readonly incompatible: bigint;
  readonly autoclear: bigint;
}

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, IMAGE_ENCRYPTED or IO. */
export function parseHeader(file: ImageFile): Header {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const unsupported = (what: string, hint = '') =>
    new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`, hint);

  const fixed = file.read(0, 112);
  if (fixed.length < 8) throw corrupt(`the file ends at byte ${file.size}, within the header`);
  const version = fixed.readUInt32BE(4);
  if (version === 1) throw unsupported('it is a qcow image of version 1', '--format qcow');
  if (version !== 2 && version !== 3) throw unsupported(`qcow2 version ${version} is neither 2 nor 3`);
  const shortest = version === 2 ? 72 : 104;
  if (fixed.length < shortest) throw corrupt(`the file ends at byte ${file.size}, within the header`);

  const clusterBits = fixed.readUInt32BE(20);
  if (clusterBits < 9) throw corrupt(`a cluster of 2^${clusterBits} bytes is smaller than 512`);
  if (clusterBits > 21) throw unsupported(`a cluster of 2^${clusterBits} bytes is larger than 2 MiB`);
  const clusterSize = 2 ** clusterBits;

  const number = (at: number, what: string) => {
    const value = fixed.readBigUInt64BE(at);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw corrupt(`the ${what}, ${value}, is beyond 2^53`);
    return Number(value);
  };
  const v3 = version === 3;
  const incompatible = v3 ? fixed.readBigUInt64BE(72) : 0n;
  const compatible = v3 ? fixed.readBigUInt64BE(80) : 0n;
  const autoclear = v3 ? fixed.readBigUInt64BE(88) : 0n;
  const refcountOrder = v3 ? fixed.readUInt32BE(96) : 4;
  const headerLength = v3 ? fixed.readUInt32BE(100) : 72;
  if (headerLength < shortest || headerLength > clusterSize) {
    throw corrupt(
      `a header of ${headerLength} bytes is not between ${shortest} and one cluster (${clusterSize})`,
    );
  }
  const backingOffset = number(8, 'offset of the backing file name');
  const nameLength = fixed.readUInt32BE(16);
  const extensionsEnd = backingOffset === 0 ? clusterSize : backingOffset;
  const extensions = parseExtensions(file, headerLength, extensionsEnd, clusterSize, corrupt);

  const unknown = incompatible & ~KNOWN;
  if (unknown !== 0n) {
    throw unsupported(`it needs ${featureNames(unknown, extensions.get(EXTENSION.featureNames))}`);
  }
  const method = fixed.readUInt32BE(32);
  if (method !== 0) throw encrypted(file, method);
  if (refcountOrder > 6) throw corrupt(`refcounts of 2^${refcountOrder} bits are wider than 64`);
  const extendedL2 = (incompatible & EXTENDED_L2) !== 0n;
  if (extendedL2 && clusterBits < 14) {
    throw corrupt(`extended L2 entries need clusters of 16384 bytes or more, these have ${clusterSize}`);
  }

  const size = number(24, 'virtual size');
  const l1Entries = fixed.readUInt32BE(36);
  const l1Offset = number(40, 'offset of the L1 table');
  const needed = Math.ceil(size / (clusterSize * (clusterSize / (extendedL2 ? 16 : 8))));
  if (l1Entries < needed) {
    throw corrupt(`the L1 table has ${l1Entries} entries, a disk of ${size} bytes needs ${needed}`);
  }
  if (l1Offset % clusterSize !== 0 || (l1Offset === 0 && needed > 0)) {
    throw corrupt(`the L1 table at byte ${l1Offset} does not stand at a cluster of its own`);
  }

  const hasDataFile = (incompatible & DATA_FILE) !== 0n;
  const dataFileRaw = hasDataFile && (autoclear & DATA_FILE_RAW) !== 0n;
  let backingName: string | undefined;
  if (backingOffset !== 0 && nameLength !== 0) {
    const room = Math.min(LONGEST_NAME, clusterSize - backingOffset);
    if (backingOffset < headerLength || nameLength > room) {
      throw corrupt(
        `a backing file name of ${nameLength} bytes at byte ${backingOffset} is not within the first cluster, or longer than ${LONGEST_NAME}`,
      );
    }
    const name = file.read(backingOffset, nameLength);
    if (name.length < nameLength) throw corrupt('the file ends within the name of its backing file');
    backingName = name.toString('utf8');
    if (dataFileRaw) throw corrupt('a raw external data file and a backing file contradict each other');
  }

  return {
    version,
    clusterBits,
    clusterSize,
    size,
    l1Offset,
    l1Entries,
    refcountTableOffset: number(48, 'offset of the refcount table'),
    refcountTableClusters: fixed.readUInt32BE(56),
    refcountOrder,
    snapshotsOffset: number(64, 'offset of the snapshot table'),
    snapshotCount: fixed.readUInt32BE(60),
    headerLength,
    backingName,
    backingFormat: text(extensions.get(EXTENSION.backingFormat)),
    codec: codecOf(fixed, headerLength, incompatible, corrupt, unsupported),
    extendedL2,
    hasDataFile,
    dataFileName: hasDataFile ? text(extensions.get(EXTENSION.dataFile)) : undefined,
    dataFileRaw,
    lazyRefcounts: (compatible & LAZY_REFCOUNTS) !== 0n,
    bitmaps: bitmapsOf(extensions.get(EXTENSION.bitmaps)),
    incompatible,
    autoclear,
  };
}

type Refusal = (what: string) => AsofError;

/** The extensions by type; the area is within the first cluster. Of a type that appears twice, the first. */
function parseExtensions(
  file: ImageFile,
  start: number,
  end: number,
  clusterSize: number,
  corrupt: Refusal,
): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  const area = file.read(0, Math.min(end, clusterSize));
  for (let at = start; at + 8 <= area.length; ) {
    const type = area.readUInt32BE(at);
    const length = area.readUInt32BE(at + 4);
    if (type === EXTENSION.end) break;
    if (length > area.length - at - 8) {
      throw corrupt(
        `the header extension 0x${type.toString(16)} at byte ${at} has ${length} bytes, more than fit`,
      );
    }
    if (!found.has(type)) found.set(type, area.subarray(at + 8, at + 8 + length));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return found;
}

function text(bytes: Buffer | undefined): string | undefined {
  return bytes && bytes.length > 0 ? bytes.toString('utf8') : undefined;
}

function bitmapsOf(bytes: Buffer | undefined): BitmapsExtension | undefined {
  if (!bytes || bytes.length < 24) return undefined;
  return {
    count: bytes.readUInt32BE(0),
    directorySize: Number(bytes.readBigUInt64BE(8)),
    directoryOffset: Number(bytes.readBigUInt64BE(16)),
  };
}

function codecOf(
  fixed: Buffer,
  headerLength: number,
  incompatible: bigint,
  corrupt: Refusal,
  unsupported: Refusal,
): 'deflate' | 'zstd' {
  const type = headerLength > 104 ? (fixed[104] ?? 0) : 0;
  if (((incompatible & COMPRESSION) !== 0n) !== (type !== 0)) {
    throw corrupt(`the compression type is ${type}, and the bit that announces it says otherwise`);
  }
  if (type > 1) throw unsupported(`the compression type ${type} is neither 0 (deflate) nor 1 (zstd)`);
  return type === 1 ? 'zstd' : 'deflate';
}

function encrypted(file: ImageFile, method: number): AsofError {
  const name = ['', 'AES', 'LUKS'][method];
  if (name === undefined) {
    return new AsofError('IMAGE_CORRUPT', `${file.path}: the encryption method ${method} is none of 0, 1, 2`);
  }
  return new AsofError(
    'IMAGE_ENCRYPTED',
    `${file.path} is encrypted with ${name}`,
    'qemu-img convert with the secret makes a plain image of it',
  );
}

/** The names of unknown incompatible features, from the image's own table where it has them. */
function featureNames(bits: bigint, table: Buffer | undefined): string {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((bits >> BigInt(bit)) & 1n) === 0n) continue;
    let name = '';
    for (let at = 0; table && at + 48 <= table.length; at += 48) {
      if (table[at] !== 0 || table[at + 1] !== bit) continue;
      name = table.toString('utf8', at + 2, at + 48).replace(/\0.*$/s, '');
    }
    names.push(
      name ? `the feature ${JSON.stringify(name)} (bit ${bit})` : `the unknown feature of bit ${bit}`,
    );
  }
  return names.join(' and ');
}
