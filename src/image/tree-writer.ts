/**
 * Writes a hash tree: the base's digests, and those that were set. Pages that were touched are held in memory up to a
 * limit, then kept in the file itself at the place where they will stay; what is left in memory of each, which covers 8 MiB of
 * the disk, is where it stands: some 50 bytes.
 */
import { closeSync, constants, fsyncSync, openSync, readSync } from 'node:fs';
import {
  DIGEST,
  emptyPages,
  FANOUT,
  HEAD,
  INDEX_ENTRY,
  LEVELS,
  PAGE,
  pageKey,
  rootOf,
  sha256,
  type Tree,
  type TreeShape,
  treeHead,
} from './tree.js';
import { writeAt } from './write.js';

/** Touched pages that are held: 16 MiB, the digests of 32 GiB of a disk written in any order. */
const HELD = 4096;

export class TreeWriter {
  readonly path: string;
  readonly #shape: TreeShape;
  readonly #base: Tree | undefined;
  readonly #fd: number;
  /** By number in level 0; the least recently touched first. */
  readonly #held = new Map<number, Buffer>();
  /** Where each page stands in the file, by key, in the order of the file. */
  readonly #slots = new Map<number, number>();
  #closed = false;
  #last: { index: number; page: Buffer } | undefined;

  /** Makes `path`, which must not exist. `base` is of the same cluster size. Throws what opening throws. */
  constructor(path: string, shape: TreeShape, base: Tree | undefined) {
    this.path = path;
    this.#shape = shape;
    this.#base = base;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  }

  set(cluster: number, digest: Uint8Array): void {
    const index = Math.floor(cluster / FANOUT);
    if (this.#last?.index !== index) this.#last = { index, page: this.#touch(index) };
    this.#last.page.set(digest, (cluster % FANOUT) * DIGEST);
  }

  /** Writes all; the root. The file is on stable storage then. */
  finish(): string {
    for (const [index, page] of this.#held) this.#write(pageKey(0, index), page);
    this.#held.clear();
    this.#last = undefined;
    const touched = Float64Array.from(this.#slots.keys(), key => key / LEVELS).sort();
    const upper = new UpperPages(
      (level, index) => this.#before(level, index),
      (level, index, page) => this.#write(pageKey(level, index), page),
    );
    for (const index of touched) {
      upper.put(1, index, sha256(this.#read(this.#slots.get(pageKey(0, index))!)));
    }
    const top = upper.close() ?? this.#before(LEVELS - 1, 0);
    const root = rootOf(this.#shape, top);
    this.#writeEnds(root);
    fsyncSync(this.#fd);
    return root;
  }

  /** A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }

  /** The page as the base has it. */
  #before(level: number, index: number): Buffer {
    return this.#base?.page(level, index) ?? emptyPages(this.#shape.clusterSize)[level]!;
  }

  #touch(index: number): Buffer {
    let page = this.#held.get(index);
    if (page) {
      this.#held.delete(index);
    } else {
      const slot = this.#slots.get(pageKey(0, index));
      page = slot === undefined ? Buffer.from(this.#before(0, index)) : this.#read(slot);
      if (this.#held.size >= HELD) {
        const [oldest, first] = this.#held.entries().next().value!;
        this.#held.delete(oldest);
        this.#write(pageKey(0, oldest), first);
      }
    }
    this.#held.set(index, page);
    return page;
  }

  #write(key: number, page: Buffer): void {
    let slot = this.#slots.get(key);
    if (slot === undefined) {
      slot = this.#slots.size;
      this.#slots.set(key, slot);
    }
    writeAt(this.#fd, page, HEAD + slot * PAGE);
  }

  #read(slot: number): Buffer {
    const page = Buffer.alloc(PAGE);
    readSync(this.#fd, page, 0, PAGE, HEAD + slot * PAGE);
    return page;
  }

  #writeEnds(root: string): void {
    const index = Buffer.alloc(this.#slots.size * INDEX_ENTRY);
    for (const [key, slot] of this.#slots) {
      const level = key % LEVELS;
      index.writeUInt32LE(level, slot * INDEX_ENTRY);
      index.writeBigUInt64LE(BigInt((key - level) / LEVELS), slot * INDEX_ENTRY + 8);
    }
    const { size, clusterSize } = this.#shape;
    const head = treeHead({ size, clusterSize, root }, this.#slots.size, sha256(index));
    writeAt(this.#fd, index, HEAD + this.#slots.size * PAGE);
    writeAt(this.#fd, head, 0);
  }
}

/** The pages above those of level 0, which come in rising order: one of each level is held. */
class UpperPages {
  readonly #before: (level: number, index: number) => Buffer;
  readonly #write: (level: number, index: number, page: Buffer) => void;
  readonly #open = new Map<number, { readonly index: number; readonly page: Buffer }>();
  #top: Buffer | undefined;

  constructor(
    before: (level: number, index: number) => Buffer,
    write: (level: number, index: number, page: Buffer) => void,
  ) {
    this.#before = before;
    this.#write = write;
  }

  /** The digest of the page `below` of the level below `level`. */
  put(level: number, below: number, digest: Buffer): void {
    const index = Math.floor(below / FANOUT);
    if (this.#open.get(level)?.index !== index) {
      this.#end(level);
      this.#open.set(level, { index, page: Buffer.from(this.#before(level, index)) });
    }
    digest.copy(this.#open.get(level)!.page, (below % FANOUT) * DIGEST);
  }

  /** Writes what is left; the one page of the highest level, undefined where nothing was put. */
  close(): Buffer | undefined {
    for (let level = 1; level < LEVELS; level++) this.#end(level);
    return this.#top;
  }

  #end(level: number): void {
    const open = this.#open.get(level);
    if (!open) return;
    this.#open.delete(level);
    this.#write(level, open.index, open.page);
    if (level === LEVELS - 1) this.#top = open.page;
    else this.put(level + 1, open.index, sha256(open.page));
  }
}
