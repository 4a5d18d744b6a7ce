/**
 * VHDX, the disks of Hyper-V since 2012: fixed, dynamic and differencing, with sectors of 512 and of 4096 bytes.
 * vhdx-log.ts replays the log, vhdx-header.ts reads headers and metadata; here the block table becomes a layer.
 *
 * Specification: [MS-VHDX] 2.5. The table has an entry for each block, and behind those of each chunk one for the bitmap of
 * its sectors, which counts in differencing disks. What a block state leaves open (undefined, unmapped) reads as zeros and
 * never as the parent's.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import {
  ABSENT,
  BlockLayer,
  type BlockTable,
  examineBlocks,
  type Place,
  type SectorBits,
  ZERO,
} from './blocks.js';
import type { Image, ImageFormat, ParentLink } from './format.js';
import { heldParts } from './held-parts.js';
import { HOST, PAGE, Pages } from './pages.js';
import { windowsPath } from './vhd-header.js';
import { MIB, parseVhdx, type Vhdx } from './vhdx-header.js';

const HIGH = 2 ** 32;

/** Sectors that one block of bitmaps tells of. */
const CHUNK = 2 ** 23;

/** Bytes of the table that are read at once where all of it is wanted. */
const PART = 2 ** 20;

const NIL = '{00000000-0000-0000-0000-000000000000}';

export const vhdx: ImageFormat = {
  name: 'vhdx',
  probe(file) {
    if (file.read(0, 8).toString('latin1') !== 'vhdxfile' && !/\.a?vhdx$/i.test(file.path)) return 'no';
    try {
      open(file);
      return 'yes';
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO') return error;
      throw error;
    }
  },
  open,
};

function open(file: ImageFile): Image {
  const disk = parseVhdx(file);
  const parent = disk.locator && parentOf(file, disk.locator);
  const table = tableOf(file, disk);
  const layer = new BlockLayer(table);
  const { entries } = disk.replay;
  const notes =
    entries === 0
      ? []
      : [`it was not closed: ${entries} entries of its log were replayed in memory, the file is as it was`];
  return {
    file,
    format: 'vhdx',
    size: disk.size,
    sectorSize: disk.sectorSize,
    identity: { id: disk.dataWriteId },
    features: featuresOf(disk),
    layer,
    snapshots: [],
    parent,
    dataFile: undefined,
    troubles: disk.troubles,
    check: () => examineBlocks(file, layer, disk.troubles, notes),
  };
}

function featuresOf(disk: Vhdx): string[] {
  const type = disk.locator ? 'differencing' : disk.keepsBlocks ? 'fixed' : 'dynamic';
  const linkage = disk.locator?.get('parent_linkage');
  return [
    `type=${type}`,
    `block-size=${disk.blockSize}`,
    `data-write-guid=${disk.dataWriteId}`,
    ...(linkage ? [`parent-linkage=${plain(linkage)}`] : []),
    ...(disk.replay.entries > 0 ? [`log-replayed=${disk.replay.entries}`] : []),
  ];
}

const plain = (linkage: string) => linkage.replace(/[{}]/g, '').toLowerCase();

function parentOf(file: ImageFile, locator: ReadonlyMap<string, string>): ParentLink {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const keys = ['relative_path', 'absolute_win32_path', 'volume_path'];
  const names = keys.map(key => locator.get(key)).filter(name => name !== undefined && name !== '');
  const [name, ...others] = names.map(one => windowsPath(one!));
  if (name === undefined) throw corrupt('its parent locator names no parent');
  const links = ['parent_linkage', 'parent_linkage2'].map(key => locator.get(key));
  const wanted = links.filter(link => link !== undefined && link !== NIL).map(link => plain(link!));
  if (wanted.length === 0) throw corrupt('its parent locator does not state the identity of the parent');
  return {
    name,
    others,
    format: 'vhdx',
    refuses: ({ identity }) =>
      identity && wanted.includes(identity.id)
        ? undefined
        : `the GUID of its last write is ${identity?.id ?? 'none'}, that of the parent ${wanted.join(' or ')}`,
  };
}

function tableOf(file: ImageFile, disk: Vhdx): BlockTable {
  const { blockSize, size, sectorSize, table, taken, replay } = disk;
  const { bytes } = replay;
  const pages = new Pages(bytes, 'little');
  const blocks = Math.ceil(size / blockSize);
  const ratio = (CHUNK * sectorSize) / blockSize;
  const chunks = Math.ceil(blocks / ratio);
  const differencing = disk.locator !== undefined;
  const count = differencing ? chunks * (ratio + 1) : blocks + Math.floor((blocks - 1) / ratio);
  if (count * 8 > table.length) {
    const what = `a block table of ${table.length} bytes has no room for ${count} entries`;
    throw new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  }
  const span = blockSize / MIB;
  const indexOf = (block: number) => block + Math.floor(block / ratio);
  const bitmapIndex = (block: number) => (Math.floor(block / ratio) + 1) * (ratio + 1) - 1;
  const entry = (index: number): { state: number; mib: number } | string => {
    const at = table.offset + index * 8;
    try {
      const page = pages.page(Math.floor(at / PAGE));
      const word = (at % PAGE) / 4;
      if ((at % PAGE) + 8 > page.bytes) return 'the block table lies beyond the end of the file';
      return split(page.words[word]!, page.words[word + 1]!);
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO')
        return `the block table cannot be read: ${error.message}`;
      throw error;
    }
  };
  const misplaced = (mib: number, length: number): string | undefined => {
    const start = mib * MIB;
    const other = taken.find(({ offset, length: size }) => start < offset + size && start + length > offset);
    if (other) return `lies within ${other.what}`;
    if (start >= file.size) return 'lies beyond the end of the file';
    return undefined;
  };
  const place = (block: number): Place => {
    const found = entry(indexOf(block));
    if (typeof found === 'string') return { kind: 'bad', why: found };
    const { state, mib } = found;
    if (state === 0) return ABSENT;
    if (state === 1 || state === 2 || state === 3) return ZERO;
    if (state !== 6 && state !== 7)
      return { kind: 'bad', why: 'the entry of the block is in no state that there is' };
    if (state === 7 && !differencing)
      return { kind: 'bad', why: 'the block is marked as partly in a parent, and there is none' };
    const why = misplaced(mib, blockSize);
    if (why !== undefined) return { kind: 'bad', why: `the block ${why}` };
    if (bytes.touches(mib * MIB, blockSize)) return { kind: 'bad', why: 'the log writes into the block' };
    return { kind: state === 6 ? 'data' : 'mixed', offset: mib * MIB };
  };
  /** The table in parts, but for holes of the file; of one that the log changes, the file alone does not tell. */
  const parts = (): Iterable<{ readonly offset: number; readonly length: number }> =>
    bytes.touches(table.offset, count * 8)
      ? Array.from({ length: Math.ceil((count * 8) / PART) }, (_, i) => ({
          offset: table.offset + i * PART,
          length: Math.min(PART, count * 8 - i * PART),
        }))
      : heldParts(file, table.offset, count * 8, PART);
  /** The claims of all blocks, or of all bitmaps. */
  function* claims(ofBitmaps: boolean): Generator<Uint32Array, void, undefined> {
    const into = new Uint32Array(PART / 8);
    const words = new Uint32Array(PART / 4);
    const raw = Buffer.from(words.buffer);
    const zeros = Buffer.alloc(PART);
    for (const { offset, length } of parts()) {
      const part = readOrNothing(bytes, offset, length);
      // Most of a sparse disk's table is zeros, and may be half a gigabyte.
      if (part.equals(zeros.subarray(0, part.length))) continue;
      part.copy(raw);
      if (HOST !== 'little') raw.subarray(0, part.length - (part.length % 4)).swap32();
      const entries = (part.length - (part.length % 8)) / 8;
      yield claimed(words.subarray(0, entries * 2), (offset - table.offset) / 8, ofBitmaps, ratio + 1, into);
    }
  }
  /** The first entry from `index` on that is not all zeros, at most `last`; the rest of one page is looked at. */
  const firstUsedIn = (index: number, last: number): number => {
    const at = table.offset + index * 8;
    try {
      const { words, bytes: held } = pages.page(Math.floor(at / PAGE));
      const first = (at % PAGE) / 4;
      const end = Math.min(held >> 2, first + (last - index) * 2);
      let word = first;
      while (word + 1 < end && words[word] === 0 && words[word + 1] === 0) word += 2;
      return index + (word - first) / 2;
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO') return index;
      throw error;
    }
  };
  return {
    file,
    size,
    blockSize,
    end: file.size,
    place,
    firstUsed(block, last) {
      while (block < last && place(block) === ABSENT) {
        // Behind the last block of a chunk stands the entry of its bitmap.
        const chunk = Math.min(last, (Math.floor(block / ratio) + 1) * ratio);
        const index = indexOf(block);
        block += Math.max(1, Math.min(chunk - block, firstUsedIn(index, index + chunk - block) - index));
      }
      return Math.min(block, last);
    },
    bits(block): SectorBits | string {
      const found = entry(bitmapIndex(block));
      if (typeof found === 'string') return found;
      if (found.state !== 6) return 'the bitmap of the block is not in the file';
      const why = misplaced(found.mib, MIB);
      if (why !== undefined) return `the bitmap of the block ${why}`;
      const sectors = blockSize / sectorSize;
      const at = found.mib * MIB + ((block % ratio) * sectors) / 8;
      let bitmap: Buffer;
      try {
        bitmap = bytes.read(at, sectors / 8);
      } catch (error) {
        if (error instanceof AsofError && error.code === 'IO') return error.message;
        throw error;
      }
      if (bitmap.length < sectors / 8) return 'the bitmap of the block lies beyond the end of the file';
      return { sectorSize, isHere: sector => ((bitmap[sector >> 3]! >> (sector & 7)) & 1) !== 0 };
    },
    claims: {
      span,
      all: () => claims(false),
      of: block => (entry(indexOf(block)) as { mib: number }).mib,
      bitmaps: () => (differencing ? claims(true) : []),
      bitmapOf: block => (entry(bitmapIndex(block)) as { mib: number }).mib,
    },
  };
}

/**
 * What the entries of `words`, of which the first is number `first`, claim, at the start of `into`: those of bitmaps, the last
 * of each `every`, or all others.
 */
function claimed(
  words: Uint32Array,
  first: number,
  ofBitmaps: boolean,
  every: number,
  into: Uint32Array,
): Uint32Array {
  let found = 0;
  for (let word = 0; word < words.length; word += 2) {
    if (words[word] === 0 && words[word + 1] === 0) continue;
    const { state, mib } = split(words[word]!, words[word + 1]!);
    const isBitmap = (first + word / 2) % every === every - 1;
    if (isBitmap === ofBitmaps && (state === 6 || state === 7) && mib < HIGH) into[found++] = mib;
  }
  return into.subarray(0, found);
}

/** State and place of an entry; one with reserved bits set is in no state. */
function split(lo: number, hi: number): { state: number; mib: number } {
  const reserved = (lo & 0xffff8) !== 0;
  return { state: reserved ? 4 : lo & 7, mib: hi * 4096 + (lo >>> 20) };
}

function readOrNothing(
  bytes: { read(offset: number, length: number): Buffer },
  offset: number,
  length: number,
): Buffer {
  try {
    return bytes.read(offset, length);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return Buffer.alloc(0);
    throw error;
  }
}
