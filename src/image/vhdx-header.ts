/**
 * Headers, region table and metadata of a VHDX, every checksum verified, as they are after the replay of its log.
 *
 * Specification: [MS-VHDX] 2.2, 2.6; numbers are little-endian. Of the two headers the one with the higher sequence
 * number counts. Where one is damaged the other serves, unless they disagree about the log: the damaged one may have
 * been the one that counted, and without the log the tables are stale.
 */
import type { ImageFile } from '../block/file.js';
import { guidHex, guidText } from '../block/guid.js';
import { AsofError } from '../errors.js';
import { crc32cWithout } from './crc32c.js';
import type { Bytes } from './pages.js';
import { type Replay, replay } from './vhdx-log.js';

const KIB = 1024;
export const MIB = 2 ** 20;
const NIL = '0'.repeat(32);

/** GUIDs as they are stored. */
const BAT = guidHex('2dc27766-f623-4200-9d64-115e9bfd4a08');
const METADATA = guidHex('8b7ca206-4790-4b9a-b8fe-575f050f886e');
const ITEM = {
  parameters: guidHex('caa16737-fa36-4d43-b3b6-33f0aa44e76b'),
  size: guidHex('2fa54224-cd1b-4876-b211-5dbed83bf4b8'),
  id: guidHex('beca12ab-b2e6-4523-93ef-c309e000c746'),
  logical: guidHex('8141bf1d-a96f-4709-ba47-f233a8faab5f'),
  physical: guidHex('cda348c7-445d-4471-9cc9-e9885251c556'),
  locator: guidHex('a8d35f2d-b30b-454d-abf7-d3d84834ab0c'),
};
const LOCATOR_TYPE = guidHex('b04aefb7-d19e-4a81-b789-25b8e9445913');

export interface Region {
  readonly what: string;
  readonly offset: number;
  readonly length: number;
}

export interface Vhdx {
  readonly replay: Replay;
  readonly dataWriteId: string;
  readonly size: number;
  readonly blockSize: number;
  readonly sectorSize: 512 | 4096;
  readonly keepsBlocks: boolean;
  readonly table: Region;
  /** What holds metadata: no block can lie there. */
  readonly taken: readonly Region[];
  /** Undefined where the disk has no parent. */
  readonly locator: ReadonlyMap<string, string> | undefined;
  readonly troubles: readonly string[];
}

export function parseVhdx(file: ImageFile): Vhdx {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  const unsupported = (what: string) => new AsofError('IMAGE_UNSUPPORTED', `${file.path}: ${what}`);
  if (file.read(0, 8).toString('latin1') !== 'vhdxfile')
    throw corrupt('it does not begin with the mark of a VHDX, vhdxfile');
  const troubles: string[] = [];
  const header = headerOf(file, corrupt, troubles);
  const version = header.readUInt16LE(66);
  if (version !== 1) throw unsupported(`version ${version} is not 1`);
  const whole = (value: bigint, what: string) => {
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw corrupt(`the ${what}, ${value}, is beyond 2^53`);
    return Number(value);
  };
  const logGuid = header.toString('hex', 48, 64);
  const log = {
    what: 'the log',
    offset: whole(header.readBigUInt64LE(72), 'offset of the log'),
    length: header.readUInt32LE(68),
    guid: logGuid,
  };
  if (log.offset % MIB !== 0 || log.offset < MIB || log.length % MIB !== 0)
    throw corrupt(`a log of ${log.length} bytes at byte ${log.offset} does not stand on whole MiB`);
  if (logGuid !== NIL && header.readUInt16LE(64) !== 0)
    throw unsupported(`version ${header.readUInt16LE(64)} of its log is not 0`);
  const played = replay(file, logGuid === NIL ? undefined : log);
  if (played.torn)
    troubles.push(
      'the newest entry of the log is not whole: a torn write, or damage; the image is as it was before it',
    );
  const regions = regionsOf(played.bytes, corrupt, unsupported, troubles);
  const table = regions.get(BAT);
  const metadata = regions.get(METADATA);
  if (!table || !metadata) throw corrupt('it has no region for its block table or for its metadata');
  const items = itemsOf(played.bytes, metadata, corrupt, unsupported);
  const item = (id: string, length: number, what: string) => {
    const bytes = items.get(id);
    if (!bytes || bytes.length < length) throw corrupt(`its metadata lack the ${what}`);
    return bytes;
  };
  const parameters = item(ITEM.parameters, 8, 'file parameters');
  const blockSize = parameters.readUInt32LE(0);
  if (blockSize < MIB || blockSize > 256 * MIB || (blockSize & (blockSize - 1)) !== 0)
    throw corrupt(`a block of ${blockSize} bytes is no power of two from 1 to 256 MiB`);
  const flags = parameters.readUInt32LE(4);
  if (flags > 3) throw corrupt(`the flags of its file parameters are ${flags}`);
  const size = whole(item(ITEM.size, 8, 'size of the disk').readBigUInt64LE(0), 'size of the disk');
  const sectorSize = item(ITEM.logical, 4, 'logical sector size').readUInt32LE(0);
  if (sectorSize !== 512 && sectorSize !== 4096)
    throw corrupt(`logical sectors of ${sectorSize} bytes are neither 512 nor 4096`);
  if (size === 0 || size % sectorSize !== 0 || size > 64 * 2 ** 40)
    throw corrupt(`a size of ${size} bytes is no number of sectors of ${sectorSize} up to 64 TiB`);
  const hasParent = (flags & 2) !== 0;
  const locator = items.get(ITEM.locator);
  if (hasParent !== (locator !== undefined))
    throw corrupt(
      hasParent ? 'it has a parent and does not say where' : 'it names a parent and says that it has none',
    );
  return {
    replay: played,
    dataWriteId: guidText(header.subarray(32, 48)),
    size,
    blockSize,
    sectorSize,
    keepsBlocks: (flags & 1) !== 0,
    table,
    taken: [{ what: 'the headers', offset: 0, length: MIB }, log, table, metadata],
    locator: locator && locatorOf(locator, corrupt),
    troubles,
  };
}

/** The header that counts, 4 KiB. */
function headerOf(file: ImageFile, corrupt: (what: string) => AsofError, troubles: string[]): Buffer {
  const both = [64 * KIB, 128 * KIB].map(at => {
    const bytes = file.read(at, 4 * KIB);
    const sound =
      bytes.length === 4 * KIB &&
      bytes.toString('latin1', 0, 4) === 'head' &&
      crc32cWithout(bytes, 4) === bytes.readUInt32LE(4);
    return { bytes, sound, sequence: sound ? bytes.readBigUInt64LE(8) : -1n };
  });
  const [one, two] = both as [(typeof both)[0], (typeof both)[0]];
  if (!one.sound && !two.sound) throw corrupt('both of its headers are damaged');
  if (one.sound && two.sound) {
    if (one.sequence === two.sequence && !one.bytes.equals(two.bytes))
      throw corrupt(`its headers differ and have one sequence number, ${one.sequence}`);
    return one.sequence >= two.sequence ? one.bytes : two.bytes;
  }
  const [sound, other] = one.sound ? [one, two] : [two, one];
  const empty = other.bytes.every(byte => byte === 0);
  if (!empty && other.bytes.toString('hex', 48, 64) !== sound.bytes.toString('hex', 48, 64))
    throw corrupt('one of its headers is damaged, and the other disagrees with it about the log');
  troubles.push(`its header ${one.sound ? 2 : 1} is damaged; the other one was used`);
  return sound.bytes;
}

type Refusal = (what: string) => AsofError;

function regionsOf(
  file: Bytes,
  corrupt: Refusal,
  unsupported: Refusal,
  troubles: string[],
): Map<string, Region> {
  const sound = [192 * KIB, 256 * KIB]
    .map(at => file.read(at, 64 * KIB))
    .map(bytes =>
      bytes.length === 64 * KIB &&
      bytes.toString('latin1', 0, 4) === 'regi' &&
      crc32cWithout(bytes, 4) === bytes.readUInt32LE(4)
        ? bytes
        : undefined,
    );
  const bytes = sound[0] ?? sound[1];
  if (!bytes) throw corrupt('both copies of its region table are damaged');
  if (!sound[0] || !sound[1])
    troubles.push('one copy of its region table is damaged; the other one was used');
  else if (!sound[0].equals(sound[1])) throw corrupt('the two copies of its region table differ');
  const count = bytes.readUInt32LE(8);
  if (count > 2047) throw corrupt(`${count} regions are more than 2047`);
  const regions = new Map<string, Region>();
  for (let i = 0; i < count; i++) {
    const at = 16 + i * 32;
    const id = bytes.toString('hex', at, at + 16);
    const offset = bytes.readBigUInt64LE(at + 16);
    const length = bytes.readUInt32LE(at + 24);
    const what = { [BAT]: 'the block table', [METADATA]: 'the metadata' }[id];
    if (what === undefined) {
      if (bytes.readUInt32LE(at + 28) & 1) throw unsupported(`it needs a region of the unknown kind ${id}`);
      continue;
    }
    if (regions.has(id)) throw corrupt(`it has ${what} twice`);
    if (offset < BigInt(MIB) || offset % BigInt(MIB) !== 0n || length % MIB !== 0 || length === 0)
      throw corrupt(`${what} of ${length} bytes at byte ${offset} does not stand on whole MiB`);
    if (offset + BigInt(length) > BigInt(file.size))
      throw corrupt(`${what} at byte ${offset} goes beyond the end of the file, byte ${file.size}`);
    regions.set(id, { what, offset: Number(offset), length });
  }
  return regions;
}

function itemsOf(file: Bytes, region: Region, corrupt: Refusal, unsupported: Refusal): Map<string, Buffer> {
  const table = file.read(region.offset, 64 * KIB);
  if (table.length < 64 * KIB || table.toString('latin1', 0, 8) !== 'metadata')
    throw corrupt(`there is no metadata table at byte ${region.offset}`);
  const count = table.readUInt16LE(10);
  if (count > 2047) throw corrupt(`${count} metadata items are more than 2047`);
  const known = new Set(Object.values(ITEM));
  const items = new Map<string, Buffer>();
  const places: { start: number; end: number }[] = [];
  for (let i = 0; i < count; i++) {
    const at = 32 + i * 32;
    const id = table.toString('hex', at, at + 16);
    const offset = table.readUInt32LE(at + 16);
    const length = table.readUInt32LE(at + 20);
    const flags = table.readUInt32LE(at + 24);
    if ((flags & 1) !== 0 || !known.has(id)) {
      if (flags & 4) throw unsupported(`it needs a metadata item of the unknown kind ${id}`);
      continue;
    }
    if (items.has(id)) throw corrupt(`its metadata have the item ${id} twice`);
    if (offset < 64 * KIB || length === 0 || length > MIB || offset + length > region.length)
      throw corrupt(`a metadata item of ${length} bytes stands at byte ${offset} of their region`);
    if (places.some(({ start, end }) => offset < end && offset + length > start))
      throw corrupt('two of its metadata items lie in one place');
    places.push({ start: offset, end: offset + length });
    items.set(id, file.read(region.offset + offset, length));
  }
  return items;
}

/** Keys and values of the parent locator. */
function locatorOf(bytes: Buffer, corrupt: Refusal): Map<string, string> {
  if (bytes.length < 20 || bytes.toString('hex', 0, 16) !== LOCATOR_TYPE)
    throw corrupt('its parent locator is of an unknown kind');
  const found = new Map<string, string>();
  const count = bytes.readUInt16LE(18);
  if (20 + count * 12 > bytes.length) throw corrupt(`its parent locator has no room for ${count} entries`);
  for (let i = 0; i < count; i++) {
    const at = 20 + i * 12;
    const part = (offset: number, length: number) => {
      if (offset + length > bytes.length) throw corrupt('its parent locator has an entry behind its end');
      return bytes.toString('utf16le', offset, offset + length);
    };
    const key = part(bytes.readUInt32LE(at), bytes.readUInt16LE(at + 8));
    found.set(key, part(bytes.readUInt32LE(at + 4), bytes.readUInt16LE(at + 10)));
  }
  return found;
}
