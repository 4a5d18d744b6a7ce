/**
 * Comparing a disk with a digest that its image carries, as the disk is read from its start to its end.
 */
import { createHash } from 'node:crypto';
import type { StoredDigest } from './image/format.js';
import { loadAddon } from './native.js';

export class Digesting {
  readonly stored: StoredDigest;
  readonly #hash: { update(bytes: Uint8Array): void; digest(): string };
  /** The run that comes next. */
  #next = 0;

  constructor(stored: StoredDigest) {
    this.stored = stored;
    this.#hash = stored.algorithm === 'crc32' ? crc32() : ofNode(stored.algorithm);
  }

  /** `piece` is what the disk holds at byte `offset`. Pieces follow each other. */
  update(offset: number, piece: Uint8Array): void {
    const { runs } = this.stored;
    if (!runs) {
      this.#hash.update(piece);
      return;
    }
    const end = offset + piece.length;
    for (; this.#next < runs.length; this.#next += 2) {
      const start = Math.max(offset, runs[this.#next]!);
      const stop = Math.min(end, runs[this.#next + 1]!);
      if (start < stop) this.#hash.update(piece.subarray(start - offset, stop - offset));
      if (runs[this.#next + 1]! > end) return;
    }
  }

  /** After the last piece, once: in lower-case hexadecimals. */
  digest(): string {
    if (this.stored.tail) this.#hash.update(this.stored.tail);
    return this.#hash.digest();
  }
}

function ofNode(algorithm: string) {
  const hash = createHash(algorithm);
  return { update: (bytes: Uint8Array) => void hash.update(bytes), digest: () => hash.digest('hex') };
}

function crc32() {
  const { crc32: add } = loadAddon();
  let crc = 0;
  return {
    update(bytes: Uint8Array) {
      crc = add(crc, bytes);
    },
    digest: () => crc.toString(16).padStart(8, '0'),
  };
}
