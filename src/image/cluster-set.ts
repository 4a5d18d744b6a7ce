/** Numbers of clusters: a bit each, so that a disk of 4 TiB costs 8 MiB whatever differs. */
export class ClusterSet {
  readonly #bits: Uint8Array;
  #count = 0;

  constructor(clusters: number) {
    this.#bits = new Uint8Array(Math.ceil(clusters / 8));
  }

  get count(): number {
    return this.#count;
  }

  add(cluster: number): void {
    const at = Math.floor(cluster / 8);
    const bit = 1 << (cluster % 8);
    if ((this.#bits[at]! & bit) !== 0) return;
    this.#bits[at]! |= bit;
    this.#count++;
  }

  /** Rising. */
  *[Symbol.iterator](): Generator<number, void, undefined> {
    for (let at = 0; at < this.#bits.length; at++) {
      const byte = this.#bits[at]!;
      for (let i = 0; byte >> i !== 0; i++) if ((byte >> i) & 1) yield at * 8 + i;
    }
  }
}
