/**
 * The clusters of an image's own file, as its refcounts know them, while something is added and something goes: what was
 * in use at the beginning is not given out again, so that the image as it was can be had back. All counts are written to
 * new places. A block counts 2 GiB; all are held.
 */
import { fstatSync } from 'node:fs';
import { CLUSTER } from './qcow2-writer.js';
import { readAt, writeAt } from './write.js';

/** Host clusters that one refcount block counts, in 16 bits each. */
const COUNTED = CLUSTER / 2;

export class HostClusters {
  readonly #fd: number;
  readonly #blocks: Buffer[] = [];
  /** Runs that nothing used at the beginning: first and number, the last one first. */
  readonly #free: [number, number][] = [];
  readonly #released = new Set<number>();
  readonly #old: number[] = [];
  #next: number;
  #packAt = 0;
  #packEnd = 0;

  constructor(fd: number, tableAt: number, tableClusters: number) {
    this.#fd = fd;
    this.#next = Math.ceil(fstatSync(fd).size / CLUSTER);
    const table = readAt(fd, tableAt, tableClusters * CLUSTER);
    for (let i = 0; i < tableClusters; i++) this.#old.push(tableAt + i * CLUSTER);
    for (let block = 0; block * COUNTED < this.#next; block++) {
      const at = block * 8 < table.length ? Number(table.readBigUInt64BE(block * 8)) : 0;
      this.#blocks.push(at === 0 ? Buffer.alloc(CLUSTER) : readAt(fd, at, CLUSTER));
      if (at !== 0) this.#old.push(at);
    }
    this.#findFree();
  }

  /** Bytes of the file. */
  get length(): number {
    return this.#next * CLUSTER;
  }

  /** Offset of so many clusters in a row, counted. */
  take(clusters: number): number {
    const run = clusters === 1 ? this.#free.at(-1) : undefined;
    let first = this.#next;
    if (run) {
      [first] = run;
      run[0]++;
      run[1]--;
      if (run[1] === 0) this.#free.pop();
    } else {
      this.#next += clusters;
    }
    for (let i = 0; i < clusters; i++) this.#count(first + i, 1);
    return first * CLUSTER;
  }

  /** Offset of `length` bytes, at most a cluster, behind those before or in what is free. */
  pack(length: number): number {
    if (this.#packAt + length > this.#packEnd) this.#room(length);
    const at = this.#packAt;
    this.#packAt += length;
    for (let host = Math.floor(at / CLUSTER); host * CLUSTER < at + length; host++) this.#count(host, 1);
    return at;
  }

  /** What held the cluster at this offset holds it no more. */
  release(offset: number): void {
    const host = Math.floor(offset / CLUSTER);
    this.#count(host, -1);
    if (this.#countOf(host) === 0) this.#released.add(host);
  }

  /** Writes all counts to new places; where the table lies then. */
  write(): { readonly at: number; readonly clusters: number } {
    for (const at of this.#old) this.release(at);
    // They count themselves, so their number is found by trying.
    let [blocks, clusters] = [1, 1];
    for (;;) {
      const need = Math.ceil((this.#next + blocks + clusters) / COUNTED);
      const tables = Math.ceil((need * 8) / CLUSTER);
      if (need <= blocks && tables <= clusters) break;
      blocks = Math.max(need, blocks);
      clusters = Math.max(tables, clusters);
    }
    const first = this.#next;
    this.#next += blocks + clusters;
    for (let host = first; host < this.#next; host++) this.#count(host, 1);
    const table = Buffer.alloc(clusters * CLUSTER);
    for (let block = 0; block < blocks; block++) {
      const at = (first + block) * CLUSTER;
      writeAt(this.#fd, this.#blocks[block] ?? Buffer.alloc(CLUSTER), at);
      table.writeBigUInt64BE(BigInt(at), block * 8);
    }
    const at = (first + blocks) * CLUSTER;
    writeAt(this.#fd, table, at);
    return { at, clusters };
  }

  /** Runs that were in use and are not any more: offset and length. */
  freed(): [number, number][] {
    const runs: [number, number][] = [];
    for (const host of [...this.#released].sort((a, b) => a - b)) {
      const last = runs.at(-1);
      if (last && last[0] + last[1] === host * CLUSTER) last[1] += CLUSTER;
      else runs.push([host * CLUSTER, CLUSTER]);
    }
    return runs;
  }

  #room(length: number): void {
    const tail = this.#packEnd === this.#next * CLUSTER;
    const run = this.#free.pop();
    if (run) {
      this.#packAt = run[0] * CLUSTER;
      this.#packEnd = (run[0] + run[1]) * CLUSTER;
      return;
    }
    if (!tail) this.#packAt = this.#next * CLUSTER;
    this.#next = Math.ceil((this.#packAt + length) / CLUSTER);
    this.#packEnd = this.#next * CLUSTER;
  }

  #findFree(): void {
    for (let host = this.#next - 1; host > 0; host--) {
      if (this.#countOf(host) !== 0) continue;
      const last = this.#free.at(-1);
      if (last && last[0] === host + 1) {
        last[0] = host;
        last[1]++;
      } else {
        this.#free.push([host, 1]);
      }
    }
  }

  #countOf(host: number): number {
    return this.#blocks[Math.floor(host / COUNTED)]?.readUInt16BE((host % COUNTED) * 2) ?? 0;
  }

  #count(host: number, more: number): void {
    const block = Math.floor(host / COUNTED);
    while (this.#blocks.length <= block) this.#blocks.push(Buffer.alloc(CLUSTER));
    const count = this.#countOf(host) + more;
    this.#blocks[block]!.writeUInt16BE(count, (host % COUNTED) * 2);
  }
}
