/** The files with the most changed bytes, in memory for as many as are wanted, however many there are. */

export interface OwnedBytes {
  /** From the root of the file system on; names are bytes, shown as UTF-8. A folder ends with a slash. */
  readonly path: string;
  readonly bytes: number;
}

export class Largest {
  readonly #count: number;
  #kept: OwnedBytes[] = [];
  /** All that were added. */
  count = 0;
  bytes = 0;

  constructor(count: number) {
    this.#count = count;
  }

  add(path: string, bytes: number): void {
    this.count++;
    this.bytes += bytes;
    this.#kept.push({ path, bytes });
    if (this.#kept.length >= 4 * (this.#count + 16)) this.#kept = this.list();
  }

  /** The largest first. */
  list(): OwnedBytes[] {
    return [...this.#kept]
      .sort((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1))
      .slice(0, this.#count);
  }
}
