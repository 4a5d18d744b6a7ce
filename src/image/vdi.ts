/**
 * VDI, the disks of VirtualBox: fixed, dynamic and differencing.
 *
 * There is no specification but VirtualBox's code (src/VBox/Storage/VDICore.h); numbers are little-endian. A table has
 * for each block the number of its place, or says that there is none, or that it is zeros. Nothing bears a checksum:
 * what can be held against the header are its own other fields and the size of the file. A differencing image knows its
 * parent by two UUIDs, of the image and of its last change, and by no name.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { ABSENT, BlockLayer, type BlockTable, examineBlocks, ZERO } from './blocks.js';
import { below, Entries, PART } from './entries.js';
import type { Image, ImageFormat, ParentLink } from './format.js';

const SIGNATURE = 0xbeda107f;
const HEADER = 0x1c8;
const SECTOR = 512;

/** Entries that stand for no place. */
const FREE = 0xffffffff;
const ZEROS = 0xfffffffe;

const TYPE: Readonly<Record<number, string>> = { 1: 'dynamic', 2: 'fixed', 4: 'differencing' };

/** Entries of a table, 1 GiB: 256 TiB in blocks of 1 MiB. */
const MOST_BLOCKS = 2 ** 28;

/** What writers align the first block to. */
const ALIGNMENTS = [SECTOR, 4096, 65_536, 2 ** 20];

const NIL = '00000000-0000-0000-0000-000000000000';

interface Header {
  readonly type: string;
  readonly size: number;
  readonly blockSize: number;
  /** Bytes in front of each block that are not its own. */
  readonly extra: number;
  readonly blocks: number;
  readonly allocated: number;
  readonly tableOffset: number;
  readonly dataOffset: number;
  readonly id: string;
  readonly changed: string;
  readonly parentId: string;
  readonly parentChanged: string;
}

export const vdi: ImageFormat = {
  name: 'vdi',
  probe(file) {
    if (!looksLike(file)) return 'no';
    try {
      parse(file);
      return 'yes';
    } catch (error) {
      if (error instanceof AsofError && error.code !== 'IO') return error;
      throw error;
    }
  },
  open(file): Image {
    const header = parse(file);
    const layer = new BlockLayer(tableOf(file, header));
    const troubles = troublesOf(file, header);
    return {
      file,
      format: 'vdi',
      size: header.size,
      sectorSize: SECTOR,
      identity: { id: header.id, state: header.changed },
      features: featuresOf(header),
      layer,
      snapshots: [],
      parent: header.type === 'differencing' ? parentOf(header) : undefined,
      dataFile: undefined,
      troubles,
      check: () => examineBlocks(file, layer, troubles),
    };
  },
};

const bearsSignature = (head: Buffer) => head.length >= 0x44 && head.readUInt32LE(0x40) === SIGNATURE;

/** Also one whose signature is damaged, by its name or by the text and the version around it: it is not to be raw. */
function looksLike(file: ImageFile): boolean {
  const head = file.read(0, 0x48);
  if (bearsSignature(head) || /\.vdi$/i.test(file.path)) return true;
  return (
    head.length === 0x48 &&
    head.readUInt32LE(0x44) === 0x10001 &&
    /^<<< .*Disk Image >>>/.test(head.toString('latin1'))
  );
}

function parse(file: ImageFile): Header {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const unsupported = (what: string) => new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`);
  const bytes = file.read(0, HEADER);
  if (!bearsSignature(bytes)) throw corrupt('it is not a VDI image: it does not bear its signature');
  if (bytes.length < HEADER) throw corrupt(`the file ends at byte ${file.size}, within the header`);
  const version = bytes.readUInt32LE(0x44);
  if (version >>> 16 !== 1) throw unsupported(`version ${version >>> 16}.${version & 0xffff} is not 1.x`);
  const headerSize = bytes.readUInt32LE(0x48);
  if (headerSize < 0x180 || headerSize > 4096)
    throw corrupt(`a header of ${headerSize} bytes is not between 384 and 4096`);
  const code = bytes.readUInt32LE(0x4c);
  const type = TYPE[code];
  if (code === 3) throw unsupported('it is an undo image');
  if (type === undefined)
    throw corrupt(`image type ${code} is none of 1 (dynamic), 2 (fixed), 4 (differencing)`);
  const size = bytes.readBigUInt64LE(0x170);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw corrupt(`its size, ${size}, is beyond 2^53`);
  if (size % BigInt(SECTOR) !== 0n) throw corrupt(`its size, ${size}, is no multiple of ${SECTOR}`);
  const sector = bytes.readUInt32LE(0x168);
  if (sector !== SECTOR) throw unsupported(`sectors of ${sector} bytes are not ${SECTOR}`);
  const header: Header = {
    type,
    size: Number(size),
    blockSize: bytes.readUInt32LE(0x178),
    extra: bytes.readUInt32LE(0x17c),
    blocks: bytes.readUInt32LE(0x180),
    allocated: bytes.readUInt32LE(0x184),
    tableOffset: bytes.readUInt32LE(0x154),
    dataOffset: bytes.readUInt32LE(0x158),
    id: uuidOf(bytes, 0x188),
    changed: uuidOf(bytes, 0x198),
    parentId: uuidOf(bytes, 0x1a8),
    parentChanged: uuidOf(bytes, 0x1b8),
  };
  const why = contradiction(file, header, 0x48 + headerSize);
  if (why !== undefined) throw corrupt(why);
  if (header.blocks > MOST_BLOCKS)
    throw unsupported(`a table of ${header.blocks} blocks is longer than ${MOST_BLOCKS}`);
  return header;
}

/** What of the header cannot be true, with the rest of it. */
function contradiction(file: ImageFile, header: Header, headerEnd: number): string | undefined {
  const { blockSize, blocks, size, extra, tableOffset, dataOffset, allocated, type } = header;
  if (blockSize < SECTOR || blockSize % SECTOR !== 0)
    return `a block of ${blockSize} bytes is no multiple of ${SECTOR}`;
  if (Math.ceil(size / blockSize) !== blocks)
    return `${blocks} blocks of ${blockSize} bytes are not what a disk of ${size} bytes has`;
  if (allocated > blocks) return `${allocated} of ${blocks} blocks are allocated`;
  if (tableOffset % SECTOR !== 0 || tableOffset < headerEnd)
    return `the block table stands at byte ${tableOffset}, where no table can`;
  const tableEnd = tableOffset + blocks * 4;
  const stride = blockSize + extra;
  // A disk that grew has its first blocks moved behind the others, whole, to make room for the table.
  const aligned = ALIGNMENTS.map(unit => Math.ceil(tableEnd / unit) * unit);
  const moved = (at: number) =>
    dataOffset > at && (dataOffset - at) % stride === 0 && dataOffset + allocated * stride === file.size;
  if (!aligned.some(at => dataOffset === at || moved(at)))
    return `the blocks begin at byte ${dataOffset}, which fits no table that ends at ${tableEnd}`;
  if (dataOffset > file.size + 2 ** 20)
    return `the blocks begin at byte ${dataOffset}, beyond the end of the file`;
  if (extra !== 0 && dataOffset + allocated * stride !== file.size)
    return `blocks with ${extra} bytes in front of each do not make a file of ${file.size} bytes`;
  if (type === 'differencing' && header.parentId === NIL) return 'it does not say what its parent is';
  return undefined;
}

function featuresOf(header: Header): string[] {
  const { type, blockSize, id, changed, parentId, parentChanged } = header;
  const parent = [`parent-uuid=${parentId}`, `parent-modified=${parentChanged}`];
  return [
    `type=${type}`,
    `block-size=${blockSize}`,
    `uuid=${id}`,
    `modified=${changed}`,
    ...(type === 'differencing' ? parent : []),
  ];
}

function troublesOf(file: ImageFile, { dataOffset, allocated, blockSize, extra }: Header): string[] {
  const wanted = dataOffset + allocated * (blockSize + extra);
  if (file.size >= wanted) return [];
  return [`the file has ${file.size} bytes, its header says ${wanted}: it was cut off`];
}

function parentOf({ parentId, parentChanged }: Header): ParentLink {
  return {
    name: `uuid ${parentId}`,
    format: 'vdi',
    byIdentity: {
      may(file) {
        const bytes = file.read(0, HEADER);
        return bytes.length === HEADER && bearsSignature(bytes) && uuidOf(bytes, 0x188) === parentId;
      },
    },
    refuses({ identity }) {
      if (identity?.id !== parentId)
        return `its UUID is ${identity?.id ?? 'none'}, that of the parent ${parentId}`;
      if (parentChanged === NIL || identity.state === parentChanged) return undefined;
      return `it was changed since: the UUID of its last change is ${identity.state}, not ${parentChanged}`;
    },
  };
}

function tableOf(file: ImageFile, header: Header): BlockTable {
  const { blockSize, extra, blocks, tableOffset, dataOffset } = header;
  const stride = blockSize + extra;
  const entries = new Entries(file, 'little', tableOffset, blocks);
  return {
    file,
    size: header.size,
    blockSize,
    end: file.size,
    place(index) {
      const entry = entries.at(index);
      if (typeof entry === 'string') return { kind: 'bad', why: entry };
      if (entry === FREE) return ABSENT;
      if (entry === ZEROS) return ZERO;
      if (entry >= blocks) return { kind: 'bad', why: 'the block has a place behind the last one' };
      return { kind: 'data', offset: dataOffset + entry * stride + extra };
    },
    firstUsed: (index, last) => entries.firstOther(index, last, FREE),
    claims: {
      span: 1,
      of: index => entries.at(index) as number,
      *all() {
        const into = new Uint32Array(PART / 4);
        for (const part of entries.parts()) yield below(part, blocks, into);
      },
    },
  };
}

/** As VirtualBox shows it: the first three fields are little-endian. */
function uuidOf(bytes: Buffer, at: number): string {
  const fields = [
    bytes.subarray(at, at + 4).toReversed(),
    bytes.subarray(at + 4, at + 6).toReversed(),
    bytes.subarray(at + 6, at + 8).toReversed(),
    bytes.subarray(at + 8, at + 10),
    bytes.subarray(at + 10, at + 16),
  ];
  return fields.map(field => Buffer.from(field).toString('hex')).join('-');
}
