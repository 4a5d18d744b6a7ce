/**
 * The metadata of an image in pages: tables of words, read lazily, kept in one cache that all images of the
 * process share, so that neither the size of a table nor the length of a chain decides how much memory is held.
 */
import { endianness } from 'node:os';
import { LRUCache } from 'lru-cache';
import type { ImageFile } from '../block/file.js';

/** Bytes of a page. A table is cluster-aligned, so that it fills pages or lies within one. */
export const PAGE = 16 * 1024;

/** Bytes of pages that the process keeps. */
const KEPT = 16 * 2 ** 20;

export interface Page {
  /** The page as 32-bit words in the order of this host, zeros behind the end of the file. */
  readonly words: Uint32Array;
  /** How many bytes of it the file holds. */
  readonly bytes: number;
}

/** What a page takes beside its words, about. */
const ENTRY = 256;

/** The words of every page of zeros: tables of sparse disks are little else, and need no memory of their own. */
const ZEROS = new Uint32Array(PAGE / 4);

const cache = new LRUCache<string, Page>({
  maxSize: KEPT,
  sizeCalculation: ({ words }) => (words === ZEROS ? ENTRY : PAGE + ENTRY),
});
let serial = 0;

/** Something of bytes: a file, or one with changes that were not yet written to it. */
export interface Bytes {
  readonly size: number;
  read(offset: number, length: number): Buffer;
}

export class Pages<File extends Bytes = ImageFile> {
  readonly file: File;
  readonly #order: 'big' | 'little';
  readonly #prefix = `${++serial}:`;

  /** `order` is that of the bytes of a word in the file. */
  constructor(file: File, order: 'big' | 'little' = 'big') {
    this.file = file;
    this.#order = order;
  }

  /** The page that begins at byte `index * PAGE`. Throws IO. */
  page(index: number): Page {
    const key = this.#prefix + index;
    const known = cache.get(key);
    if (known) return known;
    const held = this.file.read(index * PAGE, PAGE);
    const page = { words: wordsOf(held, this.#order), bytes: held.length };
    cache.set(key, page);
    return page;
  }
}

/** The order of this host's words. */
export const HOST = endianness() === 'LE' ? 'little' : 'big';

function wordsOf(held: Buffer, order: 'big' | 'little'): Uint32Array {
  if (held.equals(Buffer.from(ZEROS.buffer, 0, held.length))) return ZEROS;
  const words = new Uint32Array(PAGE / 4);
  const bytes = Buffer.from(words.buffer);
  held.copy(bytes);
  if (order !== HOST) bytes.swap32();
  return words;
}
