/**
 * A table of 32-bit entries in a file, by the page: what VHD and VDI have for their blocks.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { HOST, PAGE, Pages } from './pages.js';

/** Bytes of the table that are read at once where all of it is wanted. */
export const PART = 2 ** 20;

export class Entries {
  readonly #pages: Pages;
  readonly #file: ImageFile;
  readonly #offset: number;
  readonly #count: number;
  readonly #order: 'big' | 'little';

  /** `offset` is a multiple of 4. */
  constructor(file: ImageFile, order: 'big' | 'little', offset: number, count: number) {
    this.#pages = new Pages(file, order);
    this.#file = file;
    this.#order = order;
    this.#offset = offset;
    this.#count = count;
  }

  /** The entry of a block, or why it cannot be known. */
  at(index: number): number | string {
    if (index >= this.#count) return 'the block table has no entry for it';
    const at = this.#offset + index * 4;
    try {
      const page = this.#pages.page(Math.floor(at / PAGE));
      if ((at % PAGE) + 4 > page.bytes) return 'the block table lies beyond the end of the file';
      return page.words[(at % PAGE) / 4]!;
    } catch (error) {
      if (error instanceof AsofError && error.code === 'IO')
        return `the block table cannot be read: ${error.message}`;
      throw error;
    }
  }

  /** The first index from `index` on whose entry is not `value`, at most `last`. */
  firstOther(index: number, last: number, value: number): number {
    while (index < last) {
      if (this.at(index) !== value) return index;
      // The rest of the page that was just looked at, without a call for each entry.
      const at = this.#offset + index * 4;
      const { words, bytes } = this.#pages.page(Math.floor(at / PAGE));
      const first = (at % PAGE) / 4;
      const end = Math.min(first + Math.min(last, this.#count) - index, bytes >> 2);
      let word = first + 1;
      while (word < end && words[word] === value) word++;
      index += word - first;
    }
    return Math.min(index, last);
  }

  /**
   * All entries in turn, as words of this host, in arrays that hold good until the next is asked for. What cannot be read is
   * left out: its own blocks are bad.
   */
  *parts(): Generator<Uint32Array, void, undefined> {
    const length = this.#count * 4;
    const words = new Uint32Array(Math.min(PART, length) / 4);
    const bytes = Buffer.from(words.buffer);
    for (let done = 0; done < length; done += PART) {
      const part = readOrNothing(this.#file, this.#offset + done, Math.min(PART, length - done));
      const whole = part.length - (part.length % 4);
      part.copy(bytes, 0, 0, whole);
      if (this.#order !== HOST) bytes.subarray(0, whole).swap32();
      if (whole > 0) yield words.subarray(0, whole / 4);
      if (part.length < Math.min(PART, length - done) && this.#offset + done + part.length >= this.#file.size)
        return;
    }
  }
}

/** The entries of `part` that are less than `end`, at the start of `into`. */
export function below(part: Uint32Array, end: number, into: Uint32Array): Uint32Array {
  let count = 0;
  for (let i = 0; i < part.length; i++) {
    const entry = part[i]!;
    if (entry < end) into[count++] = entry;
  }
  return into.subarray(0, count);
}

function readOrNothing(file: ImageFile, offset: number, length: number): Buffer {
  try {
    return file.read(offset, length);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return Buffer.alloc(0);
    throw error;
  }
}
