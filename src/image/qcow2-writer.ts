/**
 * Writes a qcow2 image, version 3, from clusters that come in any order, each once.
 *
 * Specification: QEMU, docs/interop/qcow2.rst. This file decides where everything lies and writes the metadata; the
 * bytes of clusters are written by others (native/clusters.h) where `place` says. The file only grows: plain clusters and
 * tables take the next host cluster, packed ones follow each other without a gap. L2 tables beyond a limit are kept in
 * the file, and a refcount block is written once nothing can be added to the clusters that it counts, so that memory is
 * bounded whatever the size of the disk. The first cluster, with the header, is written last.
 */
import { closeSync, constants, fsyncSync, openSync, readSync } from 'node:fs';
import { CLUSTER_KINDS } from '../native.js';
import { writeAt } from './write.js';

export const CLUSTER = 65536;
const ENTRIES = CLUSTER / 8;
/** Host clusters that one refcount block counts, in 16 bits each. */
const COUNTED = CLUSTER / 2;
/** L2 tables that are held: 16 MiB, the tables of 128 GiB. */
const HELD = 256;

const COPIED = 0x80000000;
const PACKED = 0x40000000;
const HIGH = 2 ** 32;

const [ZERO, , PLAIN, PACK] = CLUSTER_KINDS.map((_, i) => i);

export interface Qcow2Options {
  /** Bytes of the disk; the header says the next multiple of 512, since QEMU knows whole sectors only. */
  readonly size: number;
  /** The name of the base's file, in the same folder. */
  readonly backing: string | undefined;
  /** Packed clusters are zstd. */
  readonly zstd: boolean;
}

export interface Stored {
  readonly plain: number;
  readonly packed: number;
  /** Marked as zeros, over a base. */
  readonly zero: number;
}

export class Qcow2Writer {
  readonly path: string;
  readonly fd: number;
  readonly #options: Qcow2Options;
  /** Offset of each L2 table, by the part of the disk that it maps; 0 where there is none. */
  readonly #l1: Float64Array;
  /** The least recently touched first. */
  readonly #l2 = new Map<number, Buffer>();
  readonly #counts = new Map<number, Buffer>();
  readonly #countBlocks = new Map<number, number>();
  /** The next host cluster; cluster 0 is the header's. */
  #next = 1;
  /** Where the next packed cluster begins, and the end of the host clusters taken for them; bytes. */
  #packAt = 0;
  #packEnd = 0;
  readonly #stored = { plain: 0, packed: 0, zero: 0 };
  #closed = false;

  /** Makes `path`, which must not exist. Throws what opening throws. */
  constructor(path: string, options: Qcow2Options) {
    this.path = path;
    this.#options = options;
    this.#l1 = new Float64Array(Math.ceil(options.size / (CLUSTER * ENTRIES)));
    this.fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    this.#count(0, 1);
  }

  get stored(): Stored {
    return { ...this.#stored };
  }

  /** Bytes of the file so far. */
  get length(): number {
    return this.#next * CLUSTER;
  }

  /**
   * Where each cluster's bytes go: -1 where it has none. `kinds` are indices of CLUSTER_KINDS, `lengths` those of packed
   * ones. Throws what reading and writing the file throws.
   */
  place(clusters: ArrayLike<number>, kinds: Uint8Array, lengths: Uint32Array): Float64Array {
    const offsets = new Float64Array(clusters.length).fill(-1);
    const based = this.#options.backing !== undefined;
    // Packed ones first: what is plain would end their run.
    for (let i = 0; i < clusters.length; i++) {
      if (kinds[i] === PACK) {
        const table = this.#table(clusters[i]!);
        const length = lengths[i]!;
        const at = this.#pack(length);
        offsets[i] = at;
        const sectors = Math.floor(((at % 512) + length - 1) / 512);
        // For clusters of 2^16 bytes, the number of further sectors begins at bit 54.
        const high = PACKED + sectors * 2 ** 22 + Math.floor(at / HIGH);
        this.#enter(table, clusters[i]!, high, at % HIGH);
        this.#stored.packed++;
      } else if (kinds[i] === ZERO && based) {
        this.#enter(this.#table(clusters[i]!), clusters[i]!, 0, 1);
        this.#stored.zero++;
      }
    }
    for (let i = 0; i < clusters.length; i++) {
      if (kinds[i] !== PLAIN) continue;
      const table = this.#table(clusters[i]!);
      const at = this.#take(1);
      offsets[i] = at;
      this.#enter(table, clusters[i]!, COPIED + Math.floor(at / HIGH), at % HIGH);
      this.#stored.plain++;
    }
    return offsets;
  }

  /** Writes what is left, the header last; the file is on stable storage then. Throws what writing throws. */
  finish(): void {
    for (const [index, table] of this.#l2) writeAt(this.fd, table, this.#l1[index]!);
    this.#l2.clear();
    const l1Clusters = Math.max(1, Math.ceil((this.#l1.length * 8) / CLUSTER));
    const l1At = this.#take(l1Clusters);
    writeAt(this.fd, this.#l1Table(l1Clusters), l1At);
    const { at, clusters } = this.#writeCounts();
    fsyncSync(this.fd);
    writeAt(this.fd, this.#header(l1At, at, clusters), 0);
    fsyncSync(this.fd);
  }

  /** A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.fd);
  }

  #take(clusters: number): number {
    // Taken before it is counted: counting may take a cluster for a block that is full.
    const first = this.#next;
    this.#next += clusters;
    for (let i = 0; i < clusters; i++) this.#count(first + i, 1);
    return first * CLUSTER;
  }

  #pack(length: number): number {
    const end = this.#next * CLUSTER;
    if (this.#packAt + length > this.#packEnd) {
      if (this.#packEnd !== end) this.#packAt = end;
      this.#next = Math.ceil((this.#packAt + length) / CLUSTER);
      this.#packEnd = this.#next * CLUSTER;
    }
    const at = this.#packAt;
    this.#packAt += length;
    for (let host = Math.floor(at / CLUSTER); host * CLUSTER < at + length; host++) this.#count(host, 1);
    return at;
  }

  /** The L2 table that maps `cluster`. */
  #table(cluster: number): Buffer {
    const index = Math.floor(cluster / ENTRIES);
    let table = this.#l2.get(index);
    if (table) {
      if (this.#l2.size > HELD / 2) {
        this.#l2.delete(index);
        this.#l2.set(index, table);
      }
      return table;
    }
    table = Buffer.alloc(CLUSTER);
    if (this.#l1[index]) readAt(this.fd, table, this.#l1[index]!);
    else this.#l1[index] = this.#take(1);
    if (this.#l2.size >= HELD) {
      const [oldest, first] = this.#l2.entries().next().value!;
      writeAt(this.fd, first, this.#l1[oldest]!);
      this.#l2.delete(oldest);
    }
    this.#l2.set(index, table);
    return table;
  }

  #enter(table: Buffer, cluster: number, high: number, low: number): void {
    const at = (cluster % ENTRIES) * 8;
    if (table.readUInt32BE(at) !== 0 || table.readUInt32BE(at + 4) !== 0) {
      throw new Error(`cluster ${cluster} was placed before`);
    }
    table.writeUInt32BE(high, at);
    table.writeUInt32BE(low, at + 4);
  }

  #count(host: number, references: number): void {
    const block = Math.floor(host / COUNTED);
    let counts = this.#counts.get(block);
    if (!counts) {
      counts = Buffer.alloc(CLUSTER);
      this.#counts.set(block, counts);
      this.#settle();
    }
    const at = (host % COUNTED) * 2;
    counts.writeUInt16BE(counts.readUInt16BE(at) + references, at);
  }

  /** Writes the refcount blocks to which nothing can be added any more. */
  #settle(): void {
    const behind = Math.floor((this.#next - 1) / COUNTED) - Math.floor(this.#packAt / CLUSTER / COUNTED);
    // What is left of a cluster for packed ones is not worth a block that is held for it.
    if (behind > 1) this.#packEnd = this.#packAt = 0;
    const packing = this.#packEnd === 0 ? this.#next : Math.floor(this.#packAt / CLUSTER);
    const open = Math.floor(Math.min(this.#next, packing) / COUNTED);
    for (const [block, counts] of [...this.#counts]) {
      if (block >= open || this.#countBlocks.has(block)) continue;
      this.#counts.delete(block);
      const at = this.#take(1);
      this.#countBlocks.set(block, at);
      writeAt(this.fd, counts, at);
    }
  }

  #l1Table(clusters: number): Buffer {
    const table = Buffer.alloc(clusters * CLUSTER);
    this.#l1.forEach((at, i) => {
      if (at === 0) return;
      table.writeUInt32BE(COPIED + Math.floor(at / HIGH), i * 8);
      table.writeUInt32BE(at % HIGH, i * 8 + 4);
    });
    return table;
  }

  /** The refcount table, and the blocks that are left: they count themselves, so their number is found by trying. */
  #writeCounts(): { readonly at: number; readonly clusters: number } {
    let blocks = 1;
    let clusters = 1;
    for (;;) {
      const end = this.#next + (blocks - this.#countBlocks.size) + clusters;
      const need = Math.ceil(end / COUNTED);
      const tables = Math.ceil((need * 8) / CLUSTER);
      if (need <= blocks && tables <= clusters) break;
      blocks = Math.max(need, blocks);
      clusters = Math.max(tables, clusters);
    }
    const places: [number, number][] = [];
    let host = this.#next;
    for (let block = 0; block < blocks; block++) {
      if (!this.#countBlocks.has(block)) places.push([block, host++]);
    }
    const at = host * CLUSTER;
    const end = host + clusters;
    for (let one = this.#next; one < end; one++) this.#countLast(one);
    this.#next = end;
    const table = Buffer.alloc(clusters * CLUSTER);
    for (const [block, place] of places) {
      writeAt(this.fd, this.#counts.get(block) ?? Buffer.alloc(CLUSTER), place * CLUSTER);
      this.#countBlocks.set(block, place * CLUSTER);
    }
    for (const [block, place] of this.#countBlocks) table.writeBigUInt64BE(BigInt(place), block * 8);
    writeAt(this.fd, table, at);
    return { at, clusters };
  }

  /** As #count, when no block is written on the way any more. */
  #countLast(host: number): void {
    const block = Math.floor(host / COUNTED);
    const counts = this.#counts.get(block) ?? Buffer.alloc(CLUSTER);
    this.#counts.set(block, counts);
    counts.writeUInt16BE(1, (host % COUNTED) * 2);
  }

  #header(l1At: number, countsAt: number, countsClusters: number): Buffer {
    const { size, backing, zstd } = this.#options;
    const header = Buffer.alloc(CLUSTER);
    header.write('QFI\xfb', 0, 'latin1');
    header.writeUInt32BE(3, 4);
    header.writeUInt32BE(16, 20);
    header.writeBigUInt64BE(BigInt(Math.ceil(size / 512) * 512), 24);
    header.writeUInt32BE(this.#l1.length, 36);
    header.writeBigUInt64BE(BigInt(l1At), 40);
    header.writeBigUInt64BE(BigInt(countsAt), 48);
    header.writeUInt32BE(countsClusters, 56);
    header.writeBigUInt64BE(zstd ? 8n : 0n, 72);
    header.writeUInt32BE(4, 96);
    header.writeUInt32BE(112, 100);
    header[104] = zstd ? 1 : 0;
    let at = 112;
    const extension = (type: number, data: Buffer) => {
      header.writeUInt32BE(type, at);
      header.writeUInt32BE(data.length, at + 4);
      data.copy(header, at + 8);
      at += 8 + Math.ceil(data.length / 8) * 8;
    };
    if (backing !== undefined) extension(0xe2792aca, Buffer.from('qcow2'));
    // A name for the one feature that older programs may lack.
    const feature = Buffer.alloc(48);
    feature[1] = 3;
    feature.write('compression type', 2, 'latin1');
    extension(0x6803f857, feature);
    at += 8;
    if (backing !== undefined) {
      const name = Buffer.from(backing);
      header.writeBigUInt64BE(BigInt(at), 8);
      header.writeUInt32BE(name.length, 16);
      name.copy(header, at);
    }
    return header;
  }
}

function readAt(fd: number, into: Buffer, offset: number): void {
  for (let at = 0; at < into.length; ) {
    const got = readSync(fd, into, at, into.length - at, offset + at);
    if (got === 0) break;
    at += got;
  }
}
