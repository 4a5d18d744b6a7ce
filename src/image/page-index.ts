/**
 * Which pages of a hash tree a file holds, and where: eight bytes a page, in rising order within each level, so that the tree of
 * a full terabyte (131,072 pages of digests) costs a megabyte of memory for each file of a chain.
 */

export const LEVELS = 6;
/** Bytes of an entry of the index: level u32, zeros u32, number of the page in its level u64. */
export const INDEX_ENTRY = 16;

interface Level {
  /** Numbers of the pages in their level, rising, and the place of each in the file. */
  readonly pages: Uint32Array;
  readonly slots: Uint32Array;
}

export class PageIndex {
  readonly #levels: readonly Level[];

  /** `index` as it lies in the file. Throws RangeError where it names a page that no disk can have. */
  constructor(index: Buffer) {
    const count = index.length / INDEX_ENTRY;
    const sizes = new Array<number>(LEVELS).fill(0);
    for (let slot = 0; slot < count; slot++) sizes[levelAt(index, slot)]!++;
    const levels = sizes.map(size => ({ pages: new Uint32Array(size), slots: new Uint32Array(size) }));
    const filled = new Array<number>(LEVELS).fill(0);
    for (let slot = 0; slot < count; slot++) {
      const level = levelAt(index, slot);
      const at = filled[level]!++;
      const { pages, slots } = levels[level]!;
      if (index.readUInt32LE(slot * INDEX_ENTRY + 12) !== 0) throw new RangeError('a page beyond any disk');
      pages[at] = index.readUInt32LE(slot * INDEX_ENTRY + 8);
      slots[at] = slot;
    }
    this.#levels = levels.map(rising);
  }

  /** The place of a page in the file; -1 where it is not there. */
  slot(level: number, page: number): number {
    const { pages, slots } = this.#levels[level]!;
    let [low, high] = [0, pages.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (pages[middle]! < page) low = middle + 1;
      else high = middle;
    }
    return pages[low] === page ? slots[low]! : -1;
  }

  /** Numbers of the pages of a level, rising. */
  pages(level: number): Uint32Array {
    return this.#levels[level]!.pages;
  }
}

function levelAt(index: Buffer, slot: number): number {
  const level = index.readUInt32LE(slot * INDEX_ENTRY);
  if (level >= LEVELS) throw new RangeError('a page of no level');
  return level;
}

/** Pages are nearly always written in rising order. */
function rising(level: Level): Level {
  const { pages, slots } = level;
  if (pages.every((page, i) => i === 0 || pages[i - 1]! < page)) return level;
  const order = Uint32Array.from(pages, (_, i) => i).sort((a, b) => pages[a]! - pages[b]!);
  return { pages: order.map(i => pages[i]!), slots: order.map(i => slots[i]!) };
}
