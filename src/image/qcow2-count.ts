/**
 * The references of a qcow2 image, counted: how often each cluster of the file is used, and for what.
 *
 * Every table is visited once and weighted by how often it is referred to, so that tables which all point to one
 * another cost no more than the file has entries; a budget bounds the first-level tables, which may overlap.
 */
import type { ImageFile } from '../block/file.js';
import { PAGE, type Pages } from './pages.js';
import type { Header } from './qcow2-header.js';
import type { SnapshotTable } from './qcow2-snapshots.js';

/** What a cluster is used for, a bit each. */
export const USES = [
  'the header',
  'an L1 table',
  'an L2 table',
  'the refcount table',
  'a refcount block',
  'the snapshot table',
  'bitmaps',
  'clusters of the disk',
] as const;
const [HEADER, L1, L2, REFCOUNT_TABLE, REFCOUNT_BLOCK, SNAPSHOTS, BITMAPS, DATA] = USES.map(
  (_, i) => 1 << i,
) as [number, number, number, number, number, number, number, number];

/** Clusters of a file that are counted: two arrays of 16 bits and one of 8 for so many. */
export const MOST_CLUSTERS = 2 ** 26;

/** Entries of first-level and bitmap tables, and of second-level tables, that are looked at. */
const BUDGET = 2 ** 27;
const L2_BUDGET = 2 ** 31;

const HIGH = 2 ** 32;

/** What breaks a rule where it stands, as sentences with how often each was met. */
export type Faults = Map<string, number>;

export class References {
  /** How often each cluster of the file is used, at most 65535. */
  readonly counts: Uint16Array;
  /** What each is used for: bits as in USES. */
  readonly uses: Uint8Array;
  /** References that lead out of the file. */
  outside = 0;
  /** Entries that break a rule. */
  readonly faults: Faults = new Map();
  /** The counting has been given up. */
  exhausted = false;
  readonly #file: ImageFile;
  readonly #pages: Pages;
  readonly #header: Header;
  #budget = BUDGET;
  #l2Budget = L2_BUDGET;

  constructor(pages: Pages, header: Header) {
    this.#pages = pages;
    this.#file = pages.file;
    this.#header = header;
    const clusters = Math.ceil(pages.file.size / header.clusterSize);
    this.counts = new Uint16Array(clusters);
    this.uses = new Uint8Array(clusters);
  }

  /** Throws IO. */
  countAll(snapshots: SnapshotTable): void {
    const { clusterSize, l1Offset, l1Entries } = this.#header;
    this.#use(0, clusterSize, HEADER);
    // How often each cluster is an L2 table; what stands at no cluster boundary is none.
    const l2 = new Uint16Array(this.counts.length);
    const firsts = new Map<string, { offset: number; entries: number; times: number }>();
    for (const first of [{ l1Offset, l1Entries }, ...snapshots.entries]) {
      const key = `${first.l1Offset}:${first.l1Entries}`;
      const known = firsts.get(key);
      if (known) known.times++;
      else firsts.set(key, { offset: first.l1Offset, entries: first.l1Entries, times: 1 });
    }
    for (const { offset, entries, times } of firsts.values()) {
      if (this.exhausted) return;
      this.#useTable(offset, entries * 8, L1, times);
      this.#words(offset, entries, (hi, lo) => {
        const table = (hi & 0xffffff) * HIGH + ((lo & 0xfffffe00) >>> 0);
        if ((hi & 0x7f000000) !== 0 || (lo & 0x1ff) !== 0)
          this.#fault('L1 entries have reserved bits set', times);
        if (table === 0) return;
        const cluster = table / clusterSize;
        if (!Number.isInteger(cluster)) this.#fault('L1 entries point to no cluster boundary', times);
        this.#use(table, clusterSize, L2, times);
        if (Number.isInteger(cluster) && cluster < l2.length)
          l2[cluster] = Math.min(0xffff, l2[cluster]! + times);
      });
    }
    for (let cluster = 0; cluster < l2.length && !this.exhausted; cluster++) {
      if (l2[cluster]! > 0) this.#countL2(cluster * clusterSize, l2[cluster]!);
    }
    this.#useTable(this.#header.snapshotsOffset, snapshots.length, SNAPSHOTS);
    this.#countBitmaps();
    this.#countRefcounts();
  }

  #countL2(table: number, times: number): void {
    const { clusterSize, clusterBits, hasDataFile } = this.#header;
    const shift = 62 - (clusterBits - 8) - 32;
    this.forEachL2(table, (hi, lo, zeros, allocated) => {
      if ((hi & 0x40000000) !== 0) {
        if ((hi & 0x80000000) !== 0)
          this.#fault('compressed clusters have the flag of an unshared cluster', times);
        if (hasDataFile) {
          this.#fault('clusters are compressed in spite of an external data file', times);
          return;
        }
        if (zeros !== 0 || allocated !== 0)
          this.#fault('compressed clusters have a bitmap of subclusters', times);
        const offset = (hi & (2 ** shift - 1)) * HIGH + lo;
        const sectors = ((hi & 0x3fffffff) >>> shift) + 1;
        this.#use(offset, sectors * 512 - (offset % 512), DATA, times);
        return;
      }
      const reserved = this.#header.extendedL2 ? 0x1ff : 0x1fe;
      if ((hi & 0x3f000000) !== 0 || (lo & reserved) !== 0)
        this.#fault('L2 entries have reserved bits set', times);
      if ((zeros & allocated) !== 0) this.#fault('subclusters are marked as allocated and as zero', times);
      const offset = (hi & 0xffffff) * HIGH + ((lo & 0xfffffe00) >>> 0);
      if (hasDataFile) return;
      if (offset === 0) {
        if (allocated !== 0)
          this.#fault('subclusters are marked as allocated in a cluster that is not', times);
        return;
      }
      if (offset % clusterSize !== 0) this.#fault('L2 entries point to no cluster boundary', times);
      this.#use(offset, clusterSize, DATA, times);
    });
  }

  /** Calls `visit` with each entry of an L2 table, as words: descriptor, then zero bits and allocation bits. */
  forEachL2(table: number, visit: (hi: number, lo: number, zeros: number, allocated: number) => void): void {
    const { clusterSize, extendedL2 } = this.#header;
    const step = extendedL2 ? 4 : 2;
    this.#l2Budget -= clusterSize / 8;
    if (this.#l2Budget < 0) {
      this.exhausted = true;
      return;
    }
    for (let done = 0; done < clusterSize; ) {
      const at = table + done;
      const page = this.#pages.page(Math.floor(at / PAGE));
      const from = Math.floor((at % PAGE) / 4);
      const words = Math.min(PAGE / 4 - from, (clusterSize - done) / 4);
      const end = Math.min(from + words, Math.floor(page.bytes / 4));
      for (let word = from; word + step <= end; word += step) {
        const hi = page.words[word]!;
        const lo = page.words[word + 1]!;
        if (extendedL2) visit(hi, lo, page.words[word + 2]!, page.words[word + 3]!);
        else if (hi !== 0 || lo !== 0) visit(hi, lo, 0, 0);
      }
      done += words * 4;
    }
  }

  #countBitmaps(): void {
    const { bitmaps, clusterSize } = this.#header;
    if (!bitmaps) return;
    const { directoryOffset: start, directorySize: size, count } = bitmaps;
    this.#useTable(start, size, BITMAPS);
    const directory = this.#file.read(start, Math.min(size, 64 * 2 ** 20));
    let at = 0;
    for (let i = 0; i < count && at + 24 <= directory.length && !this.exhausted; i++) {
      const table = Number(directory.readBigUInt64BE(at));
      const entries = directory.readUInt32BE(at + 8);
      this.#useTable(table, entries * 8, BITMAPS);
      this.#words(table, entries, (hi, lo) => {
        const offset = (hi & 0xffffff) * HIGH + ((lo & 0xfffffe00) >>> 0);
        if (offset !== 0) this.#use(offset, clusterSize, BITMAPS);
      });
      at += Math.ceil((24 + directory.readUInt16BE(at + 18) + directory.readUInt32BE(at + 20)) / 8) * 8;
    }
  }

  #countRefcounts(): void {
    const { refcountTableOffset: start, refcountTableClusters: clusters, clusterSize } = this.#header;
    this.#useTable(start, clusters * clusterSize, REFCOUNT_TABLE);
    this.#words(start, (clusters * clusterSize) / 8, (hi, lo) => {
      const block = hi * HIGH + ((lo & 0xfffffe00) >>> 0);
      if ((lo & 0x1ff) !== 0) this.#fault('refcount table entries have reserved bits set');
      else if (block === 0) return;
      else if (block % clusterSize !== 0) this.#fault('refcount table entries point to no cluster boundary');
      else this.#use(block, clusterSize, REFCOUNT_BLOCK);
    });
  }

  /** Calls `visit` with each entry of eight bytes that is not zero, as far as the file and the budget go. */
  #words(offset: number, entries: number, visit: (hi: number, lo: number) => void): void {
    if (offset % 8 !== 0) return;
    const held = Math.min(entries, Math.floor((this.#file.size - offset) / 8));
    for (let done = 0; done < held; ) {
      const at = offset + done * 8;
      const page = this.#pages.page(Math.floor(at / PAGE));
      const first = (at % PAGE) / 4;
      const count = Math.min(held - done, (PAGE / 4 - first) / 2);
      this.#budget -= count;
      if (this.#budget < 0) {
        this.exhausted = true;
        return;
      }
      for (let i = 0; i < count; i++) {
        const hi = page.words[first + i * 2]!;
        const lo = page.words[first + i * 2 + 1]!;
        if (hi !== 0 || lo !== 0) visit(hi, lo);
      }
      done += count;
    }
  }

  /** As `#use`, for what an image may claim to be of any length, any number of times: on the budget. */
  #useTable(offset: number, length: number, use: number, times = 1): void {
    this.#budget -= Math.min(Math.ceil(length / this.#header.clusterSize), this.counts.length);
    if (this.#budget < 0) this.exhausted = true;
    else this.#use(offset, length, use, times);
  }

  /** Counts each cluster of a range; the file may end within the last of it, as QEMU leaves it. */
  #use(offset: number, length: number, use: number, times = 1): void {
    if (length <= 0) return;
    const { clusterSize } = this.#header;
    if (offset + length - this.#file.size >= clusterSize) {
      this.outside += times;
      return;
    }
    const last = Math.min(Math.floor((offset + length - 1) / clusterSize), this.counts.length - 1);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
      this.counts[cluster] = Math.min(0xffff, this.counts[cluster]! + times);
      this.uses[cluster]! |= use;
    }
  }

  #fault(what: string, times = 1): void {
    this.faults.set(what, (this.faults.get(what) ?? 0) + times);
  }
}

/**
 * The refcounts that the file states, a number for each of its clusters (65535 where more).
 * Throws IO.
 */
export function statedRefcounts(file: ImageFile, header: Header): Uint16Array {
  const { clusterSize, refcountOrder, refcountTableOffset, refcountTableClusters } = header;
  const stated = new Uint16Array(Math.ceil(file.size / clusterSize));
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder;
  const blocks = Math.min(Math.ceil(stated.length / perBlock), (refcountTableClusters * clusterSize) / 8);
  const table = file.read(refcountTableOffset, blocks * 8);
  for (let i = 0; i < blocks && (i + 1) * 8 <= table.length; i++) {
    const at = table.readBigUInt64BE(i * 8);
    if (at === 0n || at % BigInt(clusterSize) !== 0n || at > BigInt(file.size)) continue;
    const block = file.read(Number(at), clusterSize);
    const entries = Math.min(
      perBlock,
      stated.length - i * perBlock,
      Math.floor((block.length * 8) / 2 ** refcountOrder),
    );
    for (let j = 0; j < entries; j++) stated[i * perBlock + j] = refcountAt(block, j, refcountOrder);
  }
  return stated;
}

function refcountAt(block: Buffer, index: number, order: number): number {
  switch (order) {
    case 6: {
      const value = block.readBigUInt64BE(index * 8);
      return value > 0xffffn ? 0xffff : Number(value);
    }
    case 5:
      return Math.min(0xffff, block.readUInt32BE(index * 4));
    case 4:
      return block.readUInt16BE(index * 2);
    default: {
      // Less than a byte: the first is in the lowest bits.
      const bits = 1 << order;
      const bit = index * bits;
      return (block[bit >> 3]! >> (bit & 7)) & ((1 << bits) - 1);
    }
  }
}
