/**
 * A table of 32-bit entries in a file, by the page: what VHD and VDI have for their blocks.
 */
import type { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { PAGE, Pages } from './pages.js';

/** Bytes of the table that are read at once where all of it is wanted. */
const PART = 2 ** 20;

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
    while (index < last && this.at(index) === value) index++;
    return index;
  }

  /** All entries in turn. What cannot be read is left out: its own blocks are bad. */
  *all(): Generator<number, void, undefined> {
    for (let done = 0; done < this.#count * 4; done += PART) {
      const length = Math.min(PART, this.#count * 4 - done);
      const part = readOrNothing(this.#file, this.#offset + done, length);
      for (let at = 0; at + 4 <= part.length; at += 4)
        yield this.#order === 'big' ? part.readUInt32BE(at) : part.readUInt32LE(at);
      if (part.length < length && this.#offset + done + part.length >= this.#file.size) return;
    }
  }
}

function readOrNothing(file: ImageFile, offset: number, length: number): Buffer {
  try {
    return file.read(offset, length);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return Buffer.alloc(0);
    throw error;
  }
}
