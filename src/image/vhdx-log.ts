/**
 * The log of a VHDX, replayed in memory: the file as it would be after the replay, without a byte of it written.
 *
 * Specification: [MS-VHDX] 2.3. The log is a ring of entries, each with a checksum over all of it. The newest valid entry
 * names the oldest one that is still needed; what lies between, in order, is the active sequence. A damaged entry within
 * it is no torn write, since newer ones were written behind it: then the image is refused.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { crc32cWithout } from './crc32c.js';
import type { Bytes } from './pages.js';

const SECTOR = 4096;
const MIB = 2 ** 20;

/** Bytes of the longest log; writers make logs of 1 MiB. */
const LONGEST = 64 * MIB;

/** Sectors that a log may change. */
const MOST_SECTORS = 2 ** 20;

export interface Log {
  readonly offset: number;
  readonly length: number;
  /** In hexadecimal, as it is stored. */
  readonly guid: string;
}

interface Entry {
  readonly at: number;
  readonly bytes: Buffer;
  readonly tail: number;
  readonly sequence: bigint;
  readonly flushed: bigint;
  readonly last: bigint;
}

/** The file with the changes of its log. */
export class Replayed implements Bytes {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #sectors: ReadonlyMap<number, Buffer | null>;
  readonly #touched = new Set<number>();

  constructor(file: ImageFile, sectors: ReadonlyMap<number, Buffer | null>, size: number) {
    this.#file = file;
    this.#sectors = sectors;
    this.size = size;
    for (const sector of sectors.keys()) this.#touched.add(Math.floor((sector * SECTOR) / MIB));
  }

  read(offset: number, length: number): Buffer {
    const held = this.#file.read(offset, length);
    if (this.#sectors.size === 0) return held;
    const bytes = Buffer.alloc(Math.max(0, Math.min(length, this.size - offset)));
    held.copy(bytes);
    for (let sector = Math.floor(offset / SECTOR); sector * SECTOR < offset + bytes.length; sector++) {
      const change = this.#sectors.get(sector);
      if (change === undefined) continue;
      const from = Math.max(offset, sector * SECTOR);
      const to = Math.min(offset + bytes.length, (sector + 1) * SECTOR);
      if (change) change.copy(bytes, from - offset, from - sector * SECTOR, to - sector * SECTOR);
      else bytes.fill(0, from - offset, to - offset);
    }
    return bytes;
  }

  /** Whether the log changes something in the MiB from byte `offset` on. */
  touches(offset: number, length: number): boolean {
    if (this.#touched.size === 0) return false;
    for (let at = offset; at < offset + length; at += MIB)
      if (this.#touched.has(Math.floor(at / MIB))) return true;
    return false;
  }
}

export interface Replay {
  readonly bytes: Replayed;
  /** Entries that were replayed. */
  readonly entries: number;
  /** The entry behind the newest was begun and is not whole. */
  readonly torn: boolean;
}

/** Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED or IO. */
export function replay(file: ImageFile, log: Log | undefined): Replay {
  const corrupt = (what: string) => new AsofError('IMAGE_CORRUPT', `${file.path}: ${what}`);
  if (!log) return { bytes: new Replayed(file, new Map(), file.size), entries: 0, torn: false };
  if (log.length > LONGEST)
    throw new AsofError(
      'IMAGE_UNSUPPORTED',
      `${file.path}: a log of ${log.length} bytes is longer than ${LONGEST}`,
    );
  const ring = file.read(log.offset, log.length);
  if (ring.length < log.length) throw corrupt(`its log goes beyond the end of the file, byte ${file.size}`);
  const entries = entriesOf(ring, log);
  const head = [...entries.values()].reduce<Entry | undefined>(
    (newest, entry) => (newest && newest.sequence >= entry.sequence ? newest : entry),
    undefined,
  );
  if (!head) throw corrupt('it was not closed, and its log has no valid entry');
  const active = sequenceOf(entries, head, log.length);
  if (!active) throw corrupt('its log is damaged: an entry before the newest one is missing or not valid');
  if (head.flushed > BigInt(file.size))
    throw corrupt(`the file has ${file.size} bytes, by its log at least ${head.flushed}: it was cut off`);
  const sectors = new Map<number, Buffer | null>();
  for (const entry of active) {
    const why = apply(entry, sectors);
    if (why !== undefined) throw corrupt(`entry ${entry.sequence} of its log ${why}`);
  }
  const size =
    head.last > BigInt(Number.MAX_SAFE_INTEGER) ? file.size : Math.max(file.size, Number(head.last));
  const next = (head.at + head.bytes.length) % log.length;
  const torn =
    !entries.has(next) &&
    ring.toString('latin1', next, next + 4) === 'loge' &&
    ring.toString('hex', next + 32, next + 48) === log.guid &&
    ring.readBigUInt64LE(next + 16) > head.sequence;
  return { bytes: new Replayed(file, sectors, size), entries: active.length, torn };
}

/** The valid entries by their place in the ring. */
function entriesOf(ring: Buffer, { length, guid }: Log): Map<number, Entry> {
  const entries = new Map<number, Entry>();
  // Each byte is summed about once in a sound log; entries that lie within one another could make it a square.
  let budget = length * 8;
  for (let at = 0; at < length; at += SECTOR) {
    if (ring.toString('latin1', at, at + 4) !== 'loge') continue;
    const size = ring.readUInt32LE(at + 8);
    if (size === 0 || size % SECTOR !== 0 || size > length || size > budget) continue;
    if (ring.toString('hex', at + 32, at + 48) !== guid) continue;
    budget -= size;
    const wrap = Math.max(0, at + size - length);
    const bytes =
      wrap === 0 ? ring.subarray(at, at + size) : Buffer.concat([ring.subarray(at), ring.subarray(0, wrap)]);
    if (crc32cWithout(bytes, 4) !== bytes.readUInt32LE(4)) continue;
    const tail = bytes.readUInt32LE(12);
    const sequence = bytes.readBigUInt64LE(16);
    if (tail % SECTOR !== 0 || tail >= length || sequence === 0n) continue;
    const flushed = bytes.readBigUInt64LE(48);
    entries.set(at, { at, bytes, tail, sequence, flushed, last: bytes.readBigUInt64LE(56) });
  }
  return entries;
}

/** The entries from the tail that `head` names to `head`; undefined where one is missing. */
function sequenceOf(entries: Map<number, Entry>, head: Entry, length: number): Entry[] | undefined {
  const active: Entry[] = [];
  let at = head.tail;
  for (;;) {
    const entry = entries.get(at);
    if (!entry || active.length > entries.size) return undefined;
    if (active.length > 0 && entry.sequence !== active.at(-1)!.sequence + 1n) return undefined;
    active.push(entry);
    if (entry === head) return active;
    at = (at + entry.bytes.length) % length;
  }
}

/** Puts what one entry changes into `sectors`; why it cannot be. */
function apply({ bytes, sequence }: Entry, sectors: Map<number, Buffer | null>): string | undefined {
  const count = bytes.readUInt32LE(24);
  let data = Math.ceil((64 + count * 32) / SECTOR) * SECTOR;
  if (data > bytes.length) return `has ${count} descriptors, more than it has room for`;
  for (let i = 0; i < count; i++) {
    const at = 64 + i * 32;
    const kind = bytes.toString('latin1', at, at + 4);
    const offset = bytes.readBigUInt64LE(at + 16);
    if (bytes.readBigUInt64LE(at + 24) !== sequence) return 'has a descriptor of another entry';
    if (offset % BigInt(SECTOR) !== 0n || offset > BigInt(Number.MAX_SAFE_INTEGER) / 2n)
      return `changes byte ${offset}, where no sector can be`;
    const first = Number(offset) / SECTOR;
    if (kind === 'zero') {
      const length = bytes.readBigUInt64LE(at + 8);
      if (length % BigInt(SECTOR) !== 0n || length > BigInt(MOST_SECTORS * SECTOR))
        return `writes ${length} bytes of zeros`;
      for (let sector = 0; sector < Number(length) / SECTOR; sector++) sectors.set(first + sector, null);
    } else if (kind === 'desc') {
      const part = bytes.subarray(data, data + SECTOR);
      data += SECTOR;
      if (part.length < SECTOR || part.toString('latin1', 0, 4) !== 'data') return 'lacks a data sector';
      const high = BigInt(part.readUInt32LE(4));
      if (((high << 32n) | BigInt(part.readUInt32LE(SECTOR - 4))) !== sequence)
        return 'has a torn data sector';
      const whole = Buffer.from(part);
      bytes.copy(whole, 0, at + 8, at + 16);
      bytes.copy(whole, SECTOR - 4, at + 4, at + 8);
      sectors.set(first, whole);
    } else return `has a descriptor of the unknown kind ${JSON.stringify(kind)}`;
    if (sectors.size > MOST_SECTORS) return `makes it change more than ${MOST_SECTORS} sectors`;
  }
  return undefined;
}
