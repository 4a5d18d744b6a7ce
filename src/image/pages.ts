/**
 * The metadata of an image in pages: big-endian tables, read lazily, kept in one cache that all images of the
 * process share, so that neither the size of a table nor the length of a chain decides how much memory is held.
 */
import { LRUCache } from 'lru-cache';
import type { ImageFile } from '../block/file.js';

/** Bytes of a page. A table is cluster-aligned, so that it fills pages or lies within one. */
export const PAGE = 16 * 1024;

/** Bytes of pages that the process keeps. */
const KEPT = 32 * 2 ** 20;

export interface Page {
  /** The page as 32-bit words in the order of this host, zeros behind the end of the file. */
  readonly words: Uint32Array;
  /** How many bytes of it the file holds. */
  readonly bytes: number;
}

const cache = new LRUCache<string, Page>({ maxSize: KEPT, sizeCalculation: () => PAGE + 256 });
let serial = 0;

export class Pages {
  readonly file: ImageFile;
  readonly #prefix = `${++serial}:`;

  constructor(file: ImageFile) {
    this.file = file;
  }

  /** The page that begins at byte `index * PAGE`. Throws IO. */
  page(index: number): Page {
    const key = this.#prefix + index;
    const known = cache.get(key);
    if (known) return known;
    const words = new Uint32Array(PAGE / 4);
    const bytes = Buffer.from(words.buffer);
    const held = this.file.read(index * PAGE, PAGE);
    held.copy(bytes);
    bytes.swap32();
    const page = { words, bytes: held.length };
    cache.set(key, page);
    return page;
  }
}
