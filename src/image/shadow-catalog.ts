/**
 * The catalogue of Volume Shadow Copies in an NTFS volume: which stores there are, and of when (libyal/libvshadow,
 * documentation/Volume Shadow Snapshot (VSS) format.asciidoc: "Volume header", "Catalog", "Store block header").
 *
 * Numbers are little-endian, offsets count from the start of the volume, and nothing bears a checksum: what can be told of
 * damage is that a block does not bear its mark, or points outside.
 */
import { guidText } from '../block/guid.js';
import type { Peek } from '../block/peek.js';
import { AsofError } from '../errors.js';

/** Of the catalogue's and the stores' blocks, and of the data that is preserved. */
export const BLOCK = 16384;
/** Bytes before what a block is about. */
export const BLOCK_HEADER = 128;

const VOLUME_HEADER = 0x1e00;
const ENTRY = 128;
/** {3808876b-c176-4e48-b7ae-04046e6cc752}, as it is stored. */
const MARK = Buffer.from('6b87083876c1484eb7ae04046e6cc752', 'hex');

export const RECORD = { volume: 1, catalog: 2, list: 3, store: 4, bitmap: 6 } as const;

/** Blocks of a catalogue: Windows keeps 512 shadow copies of a volume at most, two entries each. */
const MOST_CATALOG_BLOCKS = 64;

/** Of _VSS_VOLUME_SNAPSHOT_ATTRIBUTES (MS-SCMP 2.2.2.3). */
const ATTRIBUTES: readonly (readonly [bit: number, name: string])[] = [
  [0x1, 'persistent'],
  [0x2, 'no-autorecovery'],
  [0x4, 'client-accessible'],
  [0x8, 'no-auto-release'],
  [0x10, 'no-writers'],
  [0x20, 'transportable'],
  [0x40, 'not-surfaced'],
  [0x80, 'not-transacted'],
  [0x10000, 'hardware-assisted'],
  [0x20000, 'differential'],
  [0x40000, 'plex'],
  [0x80000, 'imported'],
  [0x100000, 'exposed-locally'],
  [0x200000, 'exposed-remotely'],
  [0x400000, 'autorecover'],
  [0x800000, 'rollback-recovery'],
  [0x1000000, 'delayed-postsnapshot'],
  [0x2000000, 'txf-recovery'],
];

/** Set in the catalogue by Windows 8 and later, whose restore points leave out what a restore does not need. */
const SCOPED = 0x400;

/** Where a store has what. Bytes from the start of the volume; 0 is "none". */
export interface StorePlaces {
  readonly list: number;
  readonly header: number;
  readonly bitmap: number;
  readonly previousBitmap: number;
}

export interface Store {
  /** From 1 on, the oldest first: as vshadowmount counts. */
  readonly number: number;
  readonly id: string;
  /** Bytes of the volume at that moment. */
  readonly size: number;
  /** In units of 100 ns from 1601 on, UTC. */
  readonly filetime: bigint;
  readonly scoped: boolean;
  /** undefined where its data is not in this volume. */
  readonly places: StorePlaces | undefined;
  readonly details: StoreDetails | undefined;
  /** What is wrong with what is said of it, a sentence. */
  readonly trouble: string | undefined;
}

export interface StoreDetails {
  readonly copyId: string;
  readonly setId: string;
  readonly attributeFlags: number;
  readonly attributes: readonly string[];
  readonly operatingMachine: string;
  readonly serviceMachine: string;
}

/**
 * The stores of the volume; none where it keeps no shadow copies.
 * Throws IMAGE_CORRUPT, DAMAGED or IO where the catalogue cannot be read whole: each store stands on all that are newer.
 */
export function storesOf(peek: Peek): Store[] {
  if (peek.source.size < VOLUME_HEADER + 512) return [];
  const header = headerOf(peek);
  if (!header?.subarray(0, 16).equals(MARK)) return [];
  if (header.readUInt32LE(20) !== RECORD.volume)
    throw corrupt(`the header of its shadow copies is a record of type ${header.readUInt32LE(20)}`);
  const catalog = offsetAt(header, 48);
  return catalog === 0 ? [] : storesIn(peek, entriesFrom(peek, catalog));
}

/** undefined where it cannot be read, and the disk is not known for an NTFS volume. */
function headerOf(peek: Peek): Buffer | undefined {
  let isNtfs = false;
  try {
    isNtfs = peek.read(3, 8).toString('latin1') === 'NTFS    ';
    return peek.read(VOLUME_HEADER, 512);
  } catch (error) {
    if (error instanceof AsofError && !isNtfs) return undefined;
    throw error;
  }
}

function entriesFrom(peek: Peek, first: number): Buffer[] {
  const entries: Buffer[] = [];
  const seen = new Set<number>();
  for (let at = first; at !== 0; ) {
    if (seen.has(at) || seen.size >= MOST_CATALOG_BLOCKS)
      throw corrupt(`its catalogue of shadow copies does not end: block at byte ${at}`);
    seen.add(at);
    const { block, next } = readBlock(peek, at, RECORD.catalog);
    for (let entry = BLOCK_HEADER; entry < BLOCK; entry += ENTRY)
      entries.push(block.subarray(entry, entry + ENTRY));
    at = next;
  }
  return entries;
}

function storesIn(peek: Peek, entries: readonly Buffer[]): Store[] {
  const places = new Map<string, StorePlaces>();
  const found: Omit<Store, 'number' | 'places' | 'details' | 'trouble'>[] = [];
  for (const entry of entries) {
    const type = entry.readBigUInt64LE(0);
    if (type > 3n) throw corrupt(`its catalogue of shadow copies has an entry of type ${type}`);
    const id = guidText(entry, 16);
    if (type === 2n) {
      const scoped = (entry.readBigUInt64LE(40) & BigInt(SCOPED)) !== 0n;
      found.push({ id, size: offsetAt(entry, 8), scoped, filetime: entry.readBigUInt64LE(48) });
    } else if (type === 3n) {
      places.set(id, {
        list: offsetAt(entry, 8),
        header: offsetAt(entry, 32),
        bitmap: offsetAt(entry, 48),
        previousBitmap: offsetAt(entry, 72),
      });
    }
  }
  found.sort((a, b) => (a.filetime < b.filetime ? -1 : a.filetime > b.filetime ? 1 : 0));
  return found.map((one, i) => {
    const where = places.get(one.id);
    const number = i + 1;
    if (!where) {
      const trouble = 'its data is not kept in this volume';
      return { ...one, number, places: undefined, details: undefined, trouble };
    }
    try {
      const details = detailsOf(readBlock(peek, where.header, RECORD.store).block);
      return { ...one, number, places: where, details, trouble: undefined };
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
      return { ...one, number, places: where, details: undefined, trouble: error.message };
    }
  });
}

/** "Store information". Throws IMAGE_CORRUPT where its texts do not end within the block. */
function detailsOf(block: Buffer): StoreDetails {
  const information = block.subarray(BLOCK_HEADER);
  const attributeFlags = information.readUInt32LE(56);
  const [operatingMachine, behind] = textAt(information, 64);
  const [serviceMachine] = textAt(information, behind);
  return {
    copyId: guidText(information, 16),
    setId: guidText(information, 32),
    attributeFlags,
    attributes: ATTRIBUTES.filter(([bit]) => attributeFlags & bit).map(([, name]) => name),
    operatingMachine,
    serviceMachine,
  };
}

function textAt(bytes: Buffer, at: number): [text: string, behind: number] {
  const length = at + 2 <= bytes.length ? bytes.readUInt16LE(at) : bytes.length;
  const end = at + 2 + length;
  if (end > bytes.length) throw corrupt('the texts of a store do not end within its header');
  return [bytes.toString('utf16le', at + 2, end), end];
}

/**
 * A block that bears the mark and is of that type, and where the next one is, 0 behind the last.
 * Throws IMAGE_CORRUPT, DAMAGED or IO.
 */
export function readBlock(
  peek: Peek,
  at: number,
  type: number,
): { readonly block: Buffer; readonly next: number } {
  if (at % 512 !== 0 || at + BLOCK > peek.source.size)
    throw corrupt(`a block of its shadow copies at byte ${at} lies outside of the volume`);
  const block = peek.read(at, BLOCK);
  if (!block.subarray(0, 16).equals(MARK) || block.readUInt32LE(16) !== 1)
    throw corrupt(`the block at byte ${at} does not bear the mark of shadow copies, version 1`);
  if (block.readUInt32LE(20) !== type)
    throw corrupt(`the block at byte ${at} is a record of type ${block.readUInt32LE(20)}, not ${type}`);
  const stated = offsetAt(block, 32);
  if (stated !== at) throw corrupt(`the block at byte ${at} says to be that of byte ${stated}`);
  return { block, next: offsetAt(block, 40) };
}

/** What is beyond what a number can tell lies outside of every volume. */
export function offsetAt(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}

export function corrupt(what: string): AsofError {
  return new AsofError('IMAGE_CORRUPT', what);
}
