/**
 * Footer and header of a VHD: parsed once, every checksum verified.
 *
 * Specification: Microsoft, "Virtual Hard Disk Image Format Specification", 2006; numbers are big-endian. The footer is
 * the last sector; a dynamic or differencing disk has a copy of it in the first one, which serves where the footer is
 * damaged. Virtual PC before 2005 wrote footers of 511 bytes. The size of the disk is CurrentSize: the geometry beside
 * it is a rounding for old disk controllers, and OriginalSize what the disk had before it grew.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';

export const COOKIE = 'conectix';
export const SECTOR = 512;
const HEADER = 1024;

/** Seconds since 2000-01-01T00:00:00Z. */
const EPOCH = Date.UTC(2000, 0, 1);

export const KIND = { fixed: 2, dynamic: 3, differencing: 4 } as const;

/** Entries of the block table: a disk of 2^32 sectors in blocks of 512 KiB has fewer. */
const MOST_BLOCKS = 2 ** 24;

export interface Footer {
  readonly kind: number;
  readonly size: number;
  readonly originalSize: number;
  readonly dataOffset: bigint;
  readonly id: string;
  readonly time: number;
  readonly creator: string;
  readonly savedState: boolean;
  /** Bytes from which the footer at the end begins; the size of the file where there is none to believe. */
  readonly end: number;
  readonly troubles: readonly string[];
}

export interface DynamicHeader {
  readonly offset: number;
  readonly tableOffset: number;
  readonly blocks: number;
  readonly blockSize: number;
  readonly parentId: string;
  readonly parentTime: number;
  /** Names of the parent, the one relative to the image first. */
  readonly names: readonly string[];
  /** Where the header says that names of the parent stand: offset and length. */
  readonly locators: readonly (readonly [number, number])[];
}

export function bearsCookie(file: ImageFile): boolean {
  return (
    ends(file).some(at => file.read(at, 8).toString('latin1') === COOKIE) || isCopy(file.read(0, SECTOR))
  );
}

/** Where a footer at the end may begin: of 512 bytes, or of the 511 that old programs wrote. */
const ends = (file: ImageFile) => [file.size - SECTOR, file.size - SECTOR + 1].filter(at => at >= 0);

/** A first sector that is not the start of somebody's raw disk. */
const isCopy = (sector: Buffer) => sector.toString('latin1', 0, 8) === COOKIE;

/** Throws IMAGE_CORRUPT where neither the footer nor its copy can be believed. */
export function parseFooter(file: ImageFile): Footer {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const copy = file.read(0, SECTOR);
  const copyIsSound = isCopy(copy) && copy.length === SECTOR && isSound(copy, 64);
  for (const at of ends(file)) {
    const read = file.read(at, SECTOR);
    const footer = read.length === SECTOR ? read : Buffer.concat([read, Buffer.alloc(SECTOR - read.length)]);
    if (footer.toString('latin1', 0, 8) !== COOKIE || !isSound(footer, 64)) continue;
    const troubles: string[] = [];
    if (copyIsSound && uuidOf(copy, 68) !== uuidOf(footer, 68))
      throw corrupt(
        'the footer at its end is another one than its copy in the first sector: one of the two is foreign',
      );
    if (footer.readUInt32BE(60) !== KIND.fixed) {
      if (!copyIsSound)
        troubles.push('the copy of the footer in the first sector is damaged; the footer is sound');
      else if (!copy.equals(footer))
        troubles.push('the footer and its copy in the first sector differ; the footer counts');
    }
    return fieldsOf(footer, at, troubles, corrupt);
  }
  if (copyIsSound && copy.readUInt32BE(60) !== KIND.fixed) {
    const what = 'the footer at the end is damaged or cut off; its copy in the first sector was used';
    return fieldsOf(copy, file.size, [what], corrupt);
  }
  if (bearsCookie(file))
    throw corrupt('the checksum of its footer is wrong, and there is no sound copy of it');
  throw corrupt('it has no footer of a VHD: it was cut off, or is none');
}

function fieldsOf(
  footer: Buffer,
  end: number,
  troubles: readonly string[],
  corrupt: (what: string) => AsofError,
): Footer {
  const kind = footer.readUInt32BE(60);
  if (kind < KIND.fixed || kind > KIND.differencing)
    throw corrupt(`disk type ${kind} is none of 2 (fixed), 3 (dynamic), 4 (differencing)`);
  const version = footer.readUInt32BE(12);
  if (version >>> 16 !== 1) throw corrupt(`format version ${version >>> 16} is not 1`);
  const size = footer.readBigUInt64BE(48);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw corrupt(`its size, ${size}, is beyond 2^53`);
  if (size % BigInt(SECTOR) !== 0n) throw corrupt(`its size, ${size}, is no multiple of ${SECTOR}`);
  return {
    kind,
    size: Number(size),
    originalSize: Number(footer.readBigUInt64BE(40)),
    dataOffset: footer.readBigUInt64BE(16),
    id: uuidOf(footer, 68),
    time: footer.readUInt32BE(24),
    creator: footer
      .toString('latin1', 28, 32)
      .replace(/[^ -~]/g, '')
      .trim(),
    savedState: footer[84] === 1,
    end,
    troubles,
  };
}

/** Throws IMAGE_CORRUPT: there is no copy of this header. */
export function parseDynamic(file: ImageFile, footer: Footer): DynamicHeader {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const within = (value: bigint, length: number, what: string) => {
    if (value + BigInt(length) > BigInt(file.size))
      throw corrupt(`${what} at byte ${value} goes beyond the end of the file, byte ${file.size}`);
    return Number(value);
  };
  const offset = within(footer.dataOffset, HEADER, 'the dynamic header');
  const header = file.read(offset, HEADER);
  if (header.length < HEADER || header.toString('latin1', 0, 8) !== 'cxsparse')
    throw corrupt(`there is no dynamic header at byte ${offset}`);
  if (!isSound(header, 36)) throw corrupt('the checksum of the dynamic header is wrong');
  const version = header.readUInt32BE(24);
  if (version >>> 16 !== 1) throw corrupt(`version ${version >>> 16} of the dynamic header is not 1`);
  const blockSize = header.readUInt32BE(32);
  if (blockSize < SECTOR || blockSize > 2 ** 30 || (blockSize & (blockSize - 1)) !== 0)
    throw corrupt(`a block of ${blockSize} bytes is no power of two from ${SECTOR} to 2^30`);
  const blocks = header.readUInt32BE(28);
  if (blocks > MOST_BLOCKS)
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: a table of ${blocks} blocks is longer than ${MOST_BLOCKS}`,
    );
  const tableOffset = within(header.readBigUInt64BE(16), 0, 'the block table');
  if (tableOffset % SECTOR !== 0)
    throw corrupt(`the block table stands at byte ${tableOffset}, at no sector`);
  const { names, locators } = namesOf(file, header);
  return {
    offset,
    tableOffset,
    blocks,
    blockSize,
    parentId: uuidOf(header, 40),
    parentTime: header.readUInt32BE(56),
    names: footer.kind === KIND.differencing ? names : [],
    locators,
  };
}

/** The names of the parent in the order in which they are to be believed. */
function namesOf(file: ImageFile, header: Buffer) {
  const byCode = new Map<string, string>();
  const locators: [number, number][] = [];
  for (let at = 576; at < 768; at += 24) {
    const code = header.toString('latin1', at, at + 4);
    const length = header.readUInt32BE(at + 8);
    const offset = header.readBigUInt64BE(at + 16);
    if (!/^(W2ru|W2ku|MacX)$/.test(code) || length === 0 || length > 65536) continue;
    if (offset + BigInt(length) > BigInt(file.size)) continue;
    const bytes = file.read(Number(offset), length);
    locators.push([Number(offset), length]);
    const text = bytes.toString(code === 'MacX' ? 'utf8' : 'utf16le').replace(/\0.*$/s, '');
    byCode.set(code, code === 'MacX' ? pathOfUrl(text) : text);
  }
  const big = Buffer.from(header.subarray(64, 576)).swap16();
  const plain = big.toString('utf16le').replace(/\0.*$/s, '');
  const all = [byCode.get('W2ru'), byCode.get('W2ku'), byCode.get('MacX'), plain];
  const names = all.filter(name => name !== undefined && name !== '').map(name => windowsPath(name!));
  return { names: [...new Set(names)], locators };
}

/** A path as Windows writes it, for who looks for it here; one with a drive's letter stays as it is. */
export function windowsPath(name: string): string {
  return /^[A-Za-z]:[\\/]/.test(name) ? name : name.replaceAll('\\', '/');
}

function pathOfUrl(text: string): string {
  try {
    return decodeURIComponent(text.replace(/^file:\/\/(?:localhost)?/, ''));
  } catch {
    return '';
  }
}

/** The checksum is the complement of the sum of all bytes but its own four. */
function isSound(bytes: Buffer, at: number): boolean {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) if (i < at || i >= at + 4) sum += bytes[i]!;
  return ~sum >>> 0 === bytes.readUInt32BE(at);
}

function uuidOf(bytes: Buffer, at: number): string {
  return bytes.toString('hex', at, at + 16).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

export const dateOf = (seconds: number) => new Date(EPOCH + seconds * 1000);
