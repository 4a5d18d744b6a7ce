/**
 * Takes what an image holds over its base into the base's own file, which then is the disk of both: at the cost of the
 * upper image, whatever the size of the lower one. Clusters are copied as they are stored; nothing is unpacked.
 *
 * Nothing that the lower image uses is overwritten. Clusters, tables and refcounts go where its refcounts are 0 or behind
 * its end; then one write within the first sector, of the header's first 128 bytes, switches to the new tables. Before it,
 * and after the same bytes are written back (`undo`), the lower image is what it was; so each state passes qemu-img check.
 * Specification: QEMU, docs/interop/qcow2.rst. Both images are of src/image/qcow2-writer.ts.
 */
import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync } from 'node:fs';
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';
import { HostClusters } from './qcow2-hosts.js';
import { CLUSTER, type Stored } from './qcow2-writer.js';
import { readAt, writeAt } from './write.js';

/** Bytes of the header that the switch replaces. */
export const SWITCHED = 128;

const ENTRIES = CLUSTER / 8;
const HIGH = 2 ** 32;
const COPIED = 0x80000000;
const PACKED = 0x40000000;
const COMPRESSION = 8n;
/** Bytes that are copied at once. */
const PIECE = 4 * 2 ** 20;

export interface Absorbed {
  /** What is stored more, or less, than before. */
  readonly more: Stored;
  readonly bytes: number;
  /** Bytes copied. */
  readonly copied: number;
  /** Runs of the file that nothing uses any more; offset and length. */
  readonly freed: readonly (readonly [number, number])[];
}

/** The bytes that `undo` writes back. Throws IMAGE_CORRUPT where the file is none of ours. */
export function headOf(path: string): Buffer {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const head = readAt(fd, 0, SWITCHED);
    parse(path, head);
    return head;
  } finally {
    closeSync(fd);
  }
}

/** Throws IMAGE_CORRUPT, and what reading and writing throw; then the file is to be given to `undo`. */
export function absorb(lowerPath: string, upperPath: string): Absorbed {
  const lower = openSync(lowerPath, constants.O_RDWR | constants.O_NOFOLLOW);
  let upper = -1;
  try {
    upper = openSync(upperPath, constants.O_RDONLY | constants.O_NOFOLLOW);
    return new Absorption(lowerPath, lower, upperPath, upper).run();
  } finally {
    closeSync(lower);
    if (upper >= 0) closeSync(upper);
  }
}

/** Makes `path` again what it was when it had `bytes` bytes and began with `head`. Throws what writing throws. */
export function undo(path: string, head: Buffer, bytes: number): void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    if (!readAt(fd, 0, head.length).equals(head)) writeAt(fd, head, 0);
    fsyncSync(fd);
    if (fstatSync(fd).size > bytes) ftruncateSync(fd, bytes);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Gives freed space back; a file system that cannot keeps it. Throws what opening throws. */
export function giveBack(path: string, runs: Absorbed['freed']): void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    for (const [offset, length] of runs) if (!loadAddon().punchHole(fd, offset, length)) return;
  } finally {
    closeSync(fd);
  }
}

interface Head {
  readonly size: bigint;
  readonly l1At: number;
  readonly l1Entries: number;
  readonly countsAt: number;
  readonly countsClusters: number;
  readonly based: boolean;
  readonly zstd: boolean;
}

function parse(path: string, head: Buffer): Head {
  const strange = (what: string) =>
    new AsofError('IMAGE_CORRUPT', `${path} is no image of a history: ${what}`, 'asof check FILE');
  if (head.length < SWITCHED || head.toString('latin1', 0, 4) !== 'QFI\xfb' || head.readUInt32BE(4) !== 3) {
    throw strange('it is no qcow2 of version 3');
  }
  const incompatible = head.readBigUInt64BE(72);
  if (head.readUInt32BE(20) !== 16 || head.readUInt32BE(96) !== 4) throw strange('its clusters or counts');
  if ((incompatible & ~COMPRESSION) !== 0n) throw strange('it has features that histories do not use');
  if (head.readUInt32BE(60) !== 0) throw strange('it has internal snapshots');
  return {
    size: head.readBigUInt64BE(24),
    l1At: Number(head.readBigUInt64BE(40)),
    l1Entries: head.readUInt32BE(36),
    countsAt: Number(head.readBigUInt64BE(48)),
    countsClusters: head.readUInt32BE(56),
    based: head.readBigUInt64BE(8) !== 0n,
    zstd: (incompatible & COMPRESSION) !== 0n,
  };
}

/** A packed cluster: where it begins, and the bytes that its entry covers. */
interface PackedPlace {
  readonly at: number;
  readonly length: number;
}

function packedPlace(hi: number, lo: number): PackedPlace {
  // For clusters of 2^16 bytes, the number of further sectors begins at bit 54.
  const at = (hi & (2 ** 22 - 1)) * HIGH + lo;
  const sectors = ((hi & 0x3fffffff) >>> 22) + 1;
  return { at, length: sectors * 512 - (at % 512) };
}

class Absorption {
  readonly #lowerPath: string;
  readonly #lower: number;
  readonly #upperPath: string;
  readonly #upper: number;
  readonly #more = { plain: 0, packed: 0, zero: 0 };
  /** Copies that are due: from where in the upper file, how long, to where. */
  #copies: [number, number, number][] = [];
  #copied = 0;

  constructor(lowerPath: string, lower: number, upperPath: string, upper: number) {
    this.#lowerPath = lowerPath;
    this.#lower = lower;
    this.#upperPath = upperPath;
    this.#upper = upper;
  }

  run(): Absorbed {
    const bytes = readAt(this.#lower, 0, SWITCHED);
    const head = parse(this.#lowerPath, bytes);
    const other = parse(this.#upperPath, readAt(this.#upper, 0, SWITCHED));
    if (head.size !== other.size) throw new Error('the images are of disks of different sizes');
    const hosts = new HostClusters(this.#lower, head.countsAt, head.countsClusters);
    const l1 = readAt(this.#lower, head.l1At, head.l1Entries * 8);
    const otherL1 = readAt(this.#upper, other.l1At, other.l1Entries * 8);
    const ends = this.#packedStarts(otherL1);
    for (let index = 0; index < other.l1Entries; index++) {
      const from = placeAt(otherL1, index);
      if (from !== 0) this.#table(hosts, l1, index, readAt(this.#upper, from, CLUSTER), head.based, ends);
    }
    const l1Clusters = Math.max(1, Math.ceil(l1.length / CLUSTER));
    const l1At = hosts.take(l1Clusters);
    writeAt(this.#lower, Buffer.concat([l1], l1Clusters * CLUSTER), l1At);
    for (let i = 0; i < l1Clusters; i++) hosts.release(head.l1At + i * CLUSTER);
    const counts = hosts.write();
    fsyncSync(this.#lower);
    bytes.writeBigUInt64BE(BigInt(l1At), 40);
    bytes.writeBigUInt64BE(BigInt(counts.at), 48);
    bytes.writeUInt32BE(counts.clusters, 56);
    if (other.zstd && !head.zstd) {
      bytes.writeBigUInt64BE(bytes.readBigUInt64BE(72) | COMPRESSION, 72);
      bytes[104] = 1;
    }
    writeAt(this.#lower, bytes, 0);
    fsyncSync(this.#lower);
    return { more: this.#more, bytes: hosts.length, copied: this.#copied, freed: hosts.freed() };
  }

  /** One L2 table: the lower one as far as the upper says nothing, at a new place. */
  #table(
    hosts: HostClusters,
    l1: Buffer,
    index: number,
    upper: Buffer,
    based: boolean,
    starts: Float64Array,
  ): void {
    const before = placeAt(l1, index);
    const table = before === 0 ? Buffer.alloc(CLUSTER) : readAt(this.#lower, before, CLUSTER);
    for (let at = 0; at < CLUSTER; at += 8) {
      const hi = upper.readUInt32BE(at);
      const lo = upper.readUInt32BE(at + 4);
      if (hi === 0 && lo === 0) continue;
      this.#release(hosts, table.readUInt32BE(at), table.readUInt32BE(at + 4));
      const [newHi, newLo] = this.#entry(hosts, hi, lo, based, starts);
      table.writeUInt32BE(newHi, at);
      table.writeUInt32BE(newLo, at + 4);
    }
    const place = hosts.take(1);
    writeAt(this.#lower, table, place);
    if (before !== 0) hosts.release(before);
    l1.writeUInt32BE(COPIED + Math.floor(place / HIGH), index * 8);
    l1.writeUInt32BE(place % HIGH, index * 8 + 4);
    this.#copy();
  }

  /** The entry of the lower image for what the upper holds; its bytes are noted to be copied. */
  #entry(
    hosts: HostClusters,
    hi: number,
    lo: number,
    based: boolean,
    starts: Float64Array,
  ): [number, number] {
    if ((hi & PACKED) !== 0) {
      const { at, length } = packedPlace(hi, lo);
      // The entry counts whole sectors: what belongs to the next is left out.
      const held = Math.min(length, nextAfter(starts, at) - at);
      const to = hosts.pack(held);
      this.#copies.push([at, held, to]);
      this.#more.packed++;
      const sectors = Math.floor(((to % 512) + held - 1) / 512);
      return [PACKED + sectors * 2 ** 22 + Math.floor(to / HIGH), to % HIGH];
    }
    if ((lo & 1) !== 0) {
      if (based) this.#more.zero++;
      return [0, based ? 1 : 0];
    }
    const to = hosts.take(1);
    this.#copies.push([(hi & 0xffffff) * HIGH + lo, CLUSTER, to]);
    this.#more.plain++;
    return [COPIED + Math.floor(to / HIGH), to % HIGH];
  }

  #release(hosts: HostClusters, hi: number, lo: number): void {
    if (hi === 0 && lo === 0) return;
    if ((hi & PACKED) !== 0) {
      const { at, length } = packedPlace(hi, lo);
      for (let host = Math.floor(at / CLUSTER); host * CLUSTER < at + length; host++) {
        hosts.release(host * CLUSTER);
      }
      this.#more.packed--;
    } else if ((lo & 1) !== 0) {
      this.#more.zero--;
    } else {
      hosts.release((hi & 0xffffff) * HIGH + lo);
      this.#more.plain--;
    }
  }

  /** Where packed clusters of the upper image begin, rising. */
  #packedStarts(l1: Buffer): Float64Array {
    const found: number[] = [];
    for (let index = 0; index * 8 < l1.length; index++) {
      const from = placeAt(l1, index);
      if (from === 0) continue;
      const table = readAt(this.#upper, from, CLUSTER);
      for (let i = 0; i < ENTRIES; i++) {
        const hi = table.readUInt32BE(i * 8);
        if ((hi & PACKED) !== 0) found.push(packedPlace(hi, table.readUInt32BE(i * 8 + 4)).at);
      }
    }
    return Float64Array.from(found).sort();
  }

  #copy(): void {
    let run: [number, number, number] | undefined;
    for (const copy of this.#copies) {
      const [from, length, to] = copy;
      if (run && run[0] + run[1] === from && run[2] + run[1] === to) run[1] += length;
      else {
        if (run) this.#copyRun(...run);
        run = [...copy];
      }
    }
    if (run) this.#copyRun(...run);
    this.#copies = [];
  }

  #copyRun(from: number, length: number, to: number): void {
    for (let done = 0; done < length; done += PIECE) {
      const bytes = readAt(this.#upper, from + done, Math.min(PIECE, length - done));
      writeAt(this.#lower, bytes, to + done);
      this.#copied += bytes.length;
    }
  }
}

/** The first of `starts` behind `at`; without one, no limit. */
function nextAfter(starts: Float64Array, at: number): number {
  let [low, high] = [0, starts.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (starts[middle]! > at) high = middle;
    else low = middle + 1;
  }
  return starts[low] ?? Number.POSITIVE_INFINITY;
}

/** Offset of the table that an L1 entry names; 0 where there is none. */
function placeAt(table: Buffer, index: number): number {
  return (
    (table.readUInt32BE(index * 8) & 0xffffff) * HIGH + ((table.readUInt32BE(index * 8 + 4) & ~0x1ff) >>> 0)
  );
}
