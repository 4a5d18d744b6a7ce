/**
 * Parallels disks: an expanding file with a table of its blocks (QEMU, docs/interop/parallels.txt), alone, or one of a bundle
 * whose DiskDescriptor.xml says which files are one disk and which state stands on which.
 *
 * Numbers are little-endian, and nothing of the file bears a checksum. A block of the table that is nowhere is zeros in a file that
 * stands on nothing, and the parent's in one that has a parent; the file itself does not say which it is. So a file that bears
 * the name of one of a bundle is not read without the descriptor.
 */
import { basename } from 'node:path';
import { concat } from '../block/concat.js';
import type { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import type { Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { ABSENT, BlockLayer, type BlockTable, examineBlocks } from './blocks.js';
import { Entries } from './entries.js';
import type { Image, ImageFormat, OpenOptions, ParentLink } from './format.js';
import {
  DESCRIPTOR,
  type Descriptor,
  descriptorBeside,
  isDescriptor,
  parseDescriptor,
  type Storage,
  type StoredImage,
} from './parallels-descriptor.js';

const SECTOR = 512;
const HEADER = 64;

/** Entries are sectors, or blocks. */
const SECTORS = 'WithoutFreeSpace';
const BLOCKS = 'WithouFreSpacExt';

const OPEN = 0x746f6e59;
/** Bit 0 of the flags: nothing was ever written. */
const EMPTY = 1;

/** Entries of a table, 1 GiB. */
const MOST_BLOCKS = 2 ** 28;
const MOST_BLOCK = 2 ** 31;

interface Header {
  /** Bytes; `unit` is what an entry of the table counts. */
  readonly size: number;
  readonly blockSize: number;
  readonly unit: number;
  readonly dataOffset: number;
  readonly extension: number;
  readonly entries: number;
  readonly open: boolean;
  readonly empty: boolean;
}

export const parallels: ImageFormat = {
  name: 'parallels',
  aliases: ['hdd'],
  probe(file) {
    try {
      if (isDescriptor(file)) return parseDescriptor(file) && 'yes';
      if (bearsSignature(file)) return parse(file) && 'yes';
      // A plain file of a bundle looks like nothing.
      if (/\.hds$/i.test(file.path) && descriptorBeside(file)) return 'yes';
      if (!/\.hd[sd]$/i.test(file.path) && !almostBearsSignature(file)) return 'no';
      return new AsofError(
        'IMAGE_CORRUPT',
        `${file.path} is named as a Parallels disk, and bears no mark of one`,
        '--format raw shows the bytes of the file itself',
      );
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO') return error;
      throw error;
    }
  },
  open(file, options): Image {
    if (isDescriptor(file)) {
      const descriptor = parseDescriptor(file);
      return ofBundle(file, descriptor, descriptor.top, options);
    }
    const descriptor = descriptorBeside(file);
    const name = basename(file.path);
    const guid = descriptor?.storages[0]?.images.find(image => image.file === name)?.guid;
    if (descriptor && guid !== undefined) return ofBundle(file, descriptor, guid, options);
    if (descriptor?.storages.some(({ images }) => images.some(image => image.file === name))) {
      const what = `${file.path} is not the first part of the disk that ${descriptor.path} describes`;
      throw new AsofError('IMAGE_UNSUPPORTED', what, `name ${DESCRIPTOR}`);
    }
    if (/\.hds$/i.test(name)) throw orphan(file, descriptor);
    const header = parse(file);
    const troubles = troublesOf(file, header);
    const layer = new BlockLayer(tableOf(file, header));
    return {
      file,
      format: 'parallels',
      size: header.size,
      sectorSize: SECTOR,
      features: [`block-size=${header.blockSize}`],
      layer,
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      troubles,
      check: () => examineBlocks(file, layer, [], troubles),
    };
  },
};

const bearsSignature = (file: ImageFile) => [SECTORS, BLOCKS].includes(file.read(0, 16).toString('latin1'));

/** A damaged one is not to be taken for raw: three of four characters are right, and the version. */
function almostBearsSignature(file: ImageFile): boolean {
  const head = file.read(0, 20);
  if (head.length < 20 || head.readUInt32LE(16) !== 2) return false;
  const mark = head.toString('latin1', 0, 16);
  return [SECTORS, BLOCKS].some(one => [...one].filter((char, i) => mark[i] === char).length >= 12);
}

function orphan(file: ImageFile, descriptor: Descriptor | undefined): AsofError {
  const why = descriptor ? `${descriptor.path} does not name it` : `there is no ${DESCRIPTOR} beside it`;
  return new AsofError(
    'PARENT_MISSING',
    `${file.path} belongs to a Parallels bundle, and ${why}: whether it stands on another file is not known`,
    `put the ${DESCRIPTOR} of the bundle beside it; a file that is known to stand on nothing is read under another ending than .hds`,
  );
}

/** One state of the disk of a bundle. `file` is its first part, or the descriptor. */
function ofBundle(file: ImageFile, descriptor: Descriptor, guid: string, { companion }: OpenOptions): Image {
  const troubles: string[] = [];
  const files = new Set<string>();
  const layers = descriptor.storages.map(storage => {
    const image = storage.images.find(one => one.guid === guid);
    const part = `the part from byte ${storage.start} of the disk`;
    if (!image)
      throw new AsofError('IMAGE_CORRUPT', `${descriptor.path}: the state ${guid} has no image of ${part}`);
    if (files.has(image.file))
      throw new AsofError('IMAGE_CORRUPT', `${descriptor.path}: ${image.file} is two parts of the disk`);
    files.add(image.file);
    const own = image.file === basename(file.path) ? file : companion(image.file);
    return partOf(own, storage, image, troubles);
  });
  const layer = layers.length === 1 ? layers[0]! : concat(layers);
  const parent = descriptor.parents.get(guid);
  return {
    file,
    format: 'parallels',
    size: descriptor.size,
    sectorSize: descriptor.sectorSize,
    identity: { id: guid },
    features: [
      `parts=${layers.length}`,
      `block-size=${descriptor.storages[0]!.blockSize}`,
      `state=${guid}`,
      ...(parent === undefined ? [] : [`parent-state=${parent}`]),
    ],
    layer,
    snapshots: [],
    parent: parent === undefined ? undefined : linkTo(descriptor, parent),
    dataFile: undefined,
    troubles,
    check: () => examineBlocks(file, layer, [], troubles),
  };
}

function partOf(file: ImageFile, storage: Storage, image: StoredImage, troubles: string[]): Layer {
  const size = storage.end - storage.start;
  const mismatch = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  if (image.plain) {
    if (bearsSignature(file)) throw mismatch('it is no plain file, as the descriptor says');
    if (file.size !== size) throw mismatch(`it has ${file.size} bytes, where the descriptor says ${size}`);
    return rawLayer(file);
  }
  const header = parse(file);
  if (header.blockSize !== storage.blockSize)
    throw mismatch(
      `its blocks have ${header.blockSize} bytes, where the descriptor says ${storage.blockSize}`,
    );
  if (header.size !== size)
    throw mismatch(`its disk has ${header.size} bytes, where the descriptor says ${size}`);
  troubles.push(...troublesOf(file, header));
  return new BlockLayer(tableOf(file, header));
}

function linkTo(descriptor: Descriptor, guid: string): ParentLink {
  const image = descriptor.storages[0]!.images.find(one => one.guid === guid);
  if (!image)
    throw new AsofError(
      'IMAGE_CORRUPT',
      `${descriptor.path}: the state ${guid}, which others stand on, has no image`,
    );
  return {
    name: image.file,
    format: 'parallels',
    refuses: ({ identity, size }) =>
      identity?.id === guid && size === descriptor.size
        ? undefined
        : `it is the state ${identity?.id ?? 'of nothing known'}, ${size} bytes; meant is ${guid}, ${descriptor.size} bytes`,
  };
}

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED, or IO. */
function parse(file: ImageFile): Header {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const bytes = file.read(0, HEADER);
  const mark = bytes.toString('latin1', 0, 16);
  if (bytes.length < HEADER || (mark !== SECTORS && mark !== BLOCKS))
    throw corrupt('it has no header of a Parallels disk');
  const version = bytes.readUInt32LE(16);
  if (version !== 2) throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: version ${version} is not 2`);
  const blockSize = bytes.readUInt32LE(28) * SECTOR;
  const entries = bytes.readUInt32LE(32);
  const sectors = Number(bytes.readBigUInt64LE(36));
  const inUse = bytes.readUInt32LE(44);
  const flags = bytes.readUInt32LE(52);
  const extension = Number(bytes.readBigUInt64LE(56)) * SECTOR;
  if (blockSize === 0 || blockSize > MOST_BLOCK) throw corrupt(`a block has ${blockSize} bytes`);
  const size = sectors * SECTOR;
  if (!Number.isSafeInteger(size) || (mark === SECTORS && sectors > 0xffffffff))
    throw corrupt(`the disk has ${sectors} sectors`);
  const blocks = Math.ceil(size / blockSize);
  if (entries < blocks)
    throw corrupt(`the table has ${entries} entries, where ${blocks} blocks are on the disk`);
  if (entries > MOST_BLOCKS)
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: a table of ${entries} entries is longer than ${MOST_BLOCKS}`,
    );
  const tableEnd = HEADER + entries * 4;
  const stated = bytes.readUInt32LE(48) * SECTOR;
  const dataOffset = stated === 0 && mark === SECTORS ? Math.ceil(tableEnd / SECTOR) * SECTOR : stated;
  if (dataOffset < tableEnd)
    throw corrupt(`the data begins at byte ${dataOffset}, the table ends at ${tableEnd}`);
  const unit = mark === BLOCKS ? blockSize : SECTOR;
  if (dataOffset % unit !== 0)
    throw corrupt(`the data begins at byte ${dataOffset}, which is between two blocks`);
  if (tableEnd > file.size) throw corrupt('the table of blocks lies beyond the end of the file');
  const header = {
    size,
    blockSize,
    unit,
    dataOffset,
    extension,
    entries,
    open: inUse === OPEN,
    empty: (flags & EMPTY) !== 0,
  };
  surplus(file, header, blocks, corrupt);
  return header;
}

/** Entries behind the end of the disk are a sign that its size was damaged, where they lead anywhere. */
function surplus(
  file: ImageFile,
  { entries, empty }: Header,
  blocks: number,
  corrupt: (what: string) => AsofError,
) {
  const first = empty ? 0 : blocks;
  if (first === entries) return;
  const table = new Entries(file, 'little', HEADER, entries);
  if (table.firstOther(first, entries, 0) < entries)
    throw corrupt(
      empty
        ? 'it says that nothing was ever written to it, and its table names blocks'
        : `its table names blocks behind the end of the disk, which has ${blocks}`,
    );
}

/** Worth knowing: the table may not be all that was written. */
function troublesOf(file: ImageFile, { open }: Header): string[] {
  const name = basename(file.path);
  return open
    ? [`${name} was not closed: a program has it open for writing, or ended without closing it`]
    : [];
}

function tableOf(
  file: ImageFile,
  { size, blockSize, unit, dataOffset, extension, entries }: Header,
): BlockTable {
  const table = new Entries(file, 'little', HEADER, entries);
  const first = Math.floor(dataOffset / unit);
  const span = blockSize / unit;
  return {
    file,
    size,
    blockSize,
    end: file.size,
    place(index) {
      const entry = table.at(index);
      if (typeof entry === 'string') return { kind: 'bad', why: entry };
      if (entry === 0) return ABSENT;
      if (entry < first) return { kind: 'bad', why: 'the block has a place in front of the data' };
      if ((entry - first) % span !== 0)
        return { kind: 'bad', why: 'the block has a place between two blocks' };
      return { kind: 'data', offset: entry * unit };
    },
    firstUsed: (index, last) => table.firstOther(index, last, 0),
    claims: {
      span,
      of: index => table.at(index) as number,
      *all() {
        for (const part of table.parts()) {
          // Empty entries are most of a table, and claim nothing.
          let count = 0;
          for (let i = 0; i < part.length; i++) {
            const entry = part[i]!;
            if (entry !== 0) part[count++] = entry;
          }
          yield part.subarray(0, count);
        }
      },
      // The extension of the format has a block of its own.
      *bitmaps() {
        const at = extension / unit;
        if (extension > 0 && at <= 0xffffffff) yield Uint32Array.of(at);
      },
    },
  };
}
