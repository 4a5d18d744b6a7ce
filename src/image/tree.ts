/**
 * The hash tree of a point: which digest every cluster of the disk has, and a root that stands for all of it.
 * Layout: docs/formats.md, "The hash tree".
 *
 * A page holds 128 digests; a digest of level 0 is a cluster's, one of level n that of a page of level n - 1. The tree has
 * six levels whatever the disk's size, so that a disk may grow. A file holds the pages that its point changed; what it
 * does not hold is the base's, and behind the last base zeros all the way down. Every page that is read is compared
 * with its digest in the page above, up to the root, before it is believed.
 */
import { createHash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { INDEX_ENTRY, LEVELS, PageIndex } from './page-index.js';

export { INDEX_ENTRY, LEVELS };

export const DIGEST = 32;
export const FANOUT = 128;
export const PAGE = DIGEST * FANOUT;
export const HEAD = 4096;
export const MAGIC = 'ASOFTREE';
export const VERSION = 1;

/** Pages that one open tree keeps, and pages a file may have (a disk of 2^53 bytes has fewer). */
const KEPT = 512;
const MOST_PAGES = 2 ** 31;

export function sha256(...parts: readonly (string | Uint8Array)[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** What a tree is about: bytes. */
export interface TreeShape {
  readonly size: number;
  readonly clusterSize: number;
}

export const pageKey = (level: number, index: number): number => index * LEVELS + level;

/** By level: the page of which all clusters are zeros. */
const empty = new Map<number, readonly Buffer[]>();

export function emptyPages(clusterSize: number): readonly Buffer[] {
  const known = empty.get(clusterSize);
  if (known) return known;
  const pages: Buffer[] = [];
  let digest = sha256(Buffer.alloc(clusterSize));
  for (let level = 0; level < LEVELS; level++) {
    const page = Buffer.concat(Array<Buffer>(FANOUT).fill(digest));
    pages.push(page);
    digest = sha256(page);
  }
  empty.set(clusterSize, pages);
  return pages;
}

/** The digest of a cluster of zeros. */
export function zeroDigest(clusterSize: number): Buffer {
  return emptyPages(clusterSize)[0]!.subarray(0, DIGEST);
}

/** The root: hexadecimal. `top` is the one page of the highest level. */
export function rootOf({ size, clusterSize }: TreeShape, top: Uint8Array): string {
  const shape = Buffer.alloc(16);
  shape.writeBigUInt64LE(BigInt(size), 0);
  shape.writeUInt32LE(clusterSize, 8);
  return sha256('asof tree 1\0', shape, sha256(top)).toString('hex');
}

/** The head of a file of so many pages, whose index has the digest `index`. */
export function treeHead(shape: TreeShape & { readonly root: string }, pages: number, index: Buffer): Buffer {
  const head = Buffer.alloc(HEAD);
  head.write(MAGIC, 0, 'latin1');
  head.writeUInt32LE(VERSION, 8);
  head.writeUInt32LE(shape.clusterSize, 12);
  head.writeBigUInt64LE(BigInt(shape.size), 16);
  head.writeBigUInt64LE(BigInt(pages), 24);
  head.write(shape.root, 32, 'hex');
  index.copy(head, 64);
  sha256(head.subarray(0, HEAD - DIGEST)).copy(head, HEAD - DIGEST);
  return head;
}

/** One file: the pages that it holds, unchecked. */
export class TreeFile implements TreeShape {
  readonly path: string;
  readonly size: number;
  readonly clusterSize: number;
  readonly root: string;
  readonly #file: ImageFile;
  readonly #index: PageIndex;

  /** Throws NOT_FOUND, IO or HISTORY_DAMAGED. */
  constructor(path: string) {
    this.path = path;
    this.#file = ImageFile.open(path);
    try {
      const damaged = (what: string) => new AsofError('HISTORY_DAMAGED', `${path}: ${what}`, HINT);
      const head = this.#file.read(0, HEAD);
      if (head.toString('latin1', 0, 8) !== MAGIC || head.length < HEAD) {
        throw damaged('it is no hash tree');
      }
      if (!sha256(head.subarray(0, HEAD - DIGEST)).equals(head.subarray(HEAD - DIGEST))) {
        throw damaged('the checksum of its head does not match');
      }
      if (head.readUInt32LE(8) !== VERSION) throw damaged(`version ${head.readUInt32LE(8)} is not known`);
      this.clusterSize = head.readUInt32LE(12);
      this.size = Number(head.readBigUInt64LE(16));
      const pages = Number(head.readBigUInt64LE(24));
      this.root = head.toString('hex', 32, 64);
      const expected = HEAD + pages * (PAGE + INDEX_ENTRY);
      if (pages > MOST_PAGES || this.#file.size !== expected) {
        throw damaged(`it has ${this.#file.size} bytes, and ${pages} pages need ${expected}`);
      }
      const index = this.#file.read(HEAD + pages * PAGE, pages * INDEX_ENTRY);
      if (!sha256(index).equals(head.subarray(64, 96))) {
        throw damaged('the checksum of its index does not match');
      }
      try {
        this.#index = new PageIndex(index);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        throw damaged(`its index names ${error.message}`);
      }
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  has(level: number, index: number): boolean {
    return this.#index.slot(level, index) >= 0;
  }

  page(level: number, index: number): Buffer | undefined {
    const slot = this.#index.slot(level, index);
    return slot < 0 ? undefined : this.#file.read(HEAD + slot * PAGE, PAGE);
  }

  /** Numbers of the pages of a level that the file holds, rising. */
  pages(level: number): Uint32Array {
    return this.#index.pages(level);
  }

  close(): void {
    this.#file.close();
  }
}

const HINT = 'asof verify DIR shows what is left of the history';

/** The tree of a point: its own file, then those of what it stands on. Files belong to the caller. */
export class Tree implements TreeShape {
  readonly size: number;
  readonly clusterSize: number;
  readonly root: string;
  readonly files: readonly TreeFile[];
  readonly #pages = new LRUCache<number, Buffer>({ max: KEPT });

  /** Newest first; at least one. Throws HISTORY_DAMAGED where they do not belong together. */
  constructor(files: readonly TreeFile[]) {
    const own = files[0]!;
    this.files = files;
    ({ size: this.size, clusterSize: this.clusterSize, root: this.root } = own);
    const other = files.find(file => file.clusterSize !== own.clusterSize);
    if (other) {
      throw new AsofError(
        'HISTORY_DAMAGED',
        `${other.path} and ${own.path} have clusters of different sizes`,
      );
    }
  }

  /** Throws HISTORY_DAMAGED where it, or one above it, is not what the root says. */
  page(level: number, index: number): Buffer {
    const key = pageKey(level, index);
    const known = this.#pages.get(key);
    if (known) return known;
    let page: Buffer | undefined;
    let from = this.files[0]!;
    for (const file of this.files) {
      page = file.page(level, index);
      if (page) {
        from = file;
        break;
      }
    }
    page ??= emptyPages(this.clusterSize)[level]!;
    const above = level + 1 < LEVELS ? this.page(level + 1, Math.floor(index / FANOUT)) : undefined;
    const at = (index % FANOUT) * DIGEST;
    const sound = above
      ? page.length === PAGE && sha256(page).equals(above.subarray(at, at + DIGEST))
      : page.length === PAGE && rootOf(this, page) === this.root;
    if (!sound) {
      throw new AsofError(
        'HISTORY_DAMAGED',
        `${from.path}: page ${index} of level ${level} is not the one that the tree's root stands for`,
        HINT,
      );
    }
    this.#pages.set(key, page);
    return page;
  }

  /** The digest of a cluster, within a buffer that must not be changed. */
  digest(cluster: number): Buffer {
    const page = this.page(0, Math.floor(cluster / FANOUT));
    const at = (cluster % FANOUT) * DIGEST;
    return page.subarray(at, at + DIGEST);
  }

  /** Every page of its own file, up to the root. Throws HISTORY_DAMAGED for the first that is not sound. */
  check(): void {
    const own = this.files[0]!;
    this.page(LEVELS - 1, 0);
    for (let level = LEVELS - 1; level >= 0; level--) {
      for (const index of own.pages(level)) this.page(level, index);
    }
  }
}
