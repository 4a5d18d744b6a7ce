/**
 * Drains a snapshot of a lease while it is copied: what the copy-on-write layer has had to keep is read first, and what is
 * stored, or will not be read, is given back, so that writes there are copied no more.
 *
 * The daemon gives whole chunks back: of a chunk that is larger than what is stored at once the bytes are counted. One
 * question is under way at a time, about all that has come together meanwhile; whoever stores waits for the one that holds his.
 */
import type { BackupOptions } from '../histories.js';
import type { Extent } from '../volumes.js';
import type { Client } from './client.js';

/** Extents of one question. */
const EXTENTS_AT_ONCE = 4096;

/** Bytes of a cluster of an image. */
const CLUSTER = 65536;

export interface Drained {
  readonly lease: string;
  readonly snapshot: string;
  /** Bytes. */
  readonly size: number;
  readonly chunkSize: number;
}

export class Drain {
  readonly #client: Client;
  readonly #what: Drained;
  /** Bytes to come of chunks that are stored in part, by where they begin. */
  readonly #parts = new Map<number, number>();
  /** To be given back: start and end. */
  #ready: [number, number][] = [];
  #urgent: (readonly [number, number])[] = [];
  #asking: Promise<void> = Promise.resolve();
  /** The question that is not under way yet. */
  #next: Promise<void> | undefined;
  #trouble: string | undefined;

  constructor(client: Client, what: Drained) {
    this.#client = client;
    this.#what = what;
  }

  /** Why it was given up, and the rest copied without; undefined where it was not. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  get hooks(): Pick<BackupOptions, 'urgent' | 'passed' | 'stored'> {
    return {
      urgent: () => this.#urgent.splice(0),
      passed: runs => {
        for (const [offset, length] of runs) this.#add(offset, offset + length);
        void this.#ask();
      },
      stored: clusters => {
        for (const cluster of clusters) this.#add(cluster * CLUSTER, (cluster + 1) * CLUSTER);
        return this.#ask();
      },
    };
  }

  /** Each byte once. */
  #add(from: number, to: number): void {
    const { size, chunkSize } = this.#what;
    const end = Math.min(to, size);
    const first = Math.ceil(from / chunkSize) * chunkSize;
    const last = end === size ? size : Math.floor(end / chunkSize) * chunkSize;
    if (first > last) this.#part(from, end);
    else {
      this.#part(from, first);
      this.#give(first, last);
      this.#part(last, end);
    }
  }

  /** Within one chunk. */
  #part(from: number, to: number): void {
    if (from === to) return;
    const { size, chunkSize } = this.#what;
    const start = Math.floor(from / chunkSize) * chunkSize;
    const end = Math.min(start + chunkSize, size);
    const left = (this.#parts.get(start) ?? end - start) - (to - from);
    if (left > 0) this.#parts.set(start, left);
    else {
      this.#parts.delete(start);
      this.#give(start, end);
    }
  }

  #give(start: number, end: number): void {
    if (start === end) return;
    const last = this.#ready.at(-1);
    if (last && last[1] === start) last[1] = end;
    else this.#ready.push([start, end]);
  }

  #ask(): Promise<void> {
    this.#next ??= this.#asking.then(async () => {
      this.#next = undefined;
      this.#asking = this.#send();
      await this.#asking;
    });
    return this.#next;
  }

  /** Never rejects: without it the snapshot is whole, and costs what it costs. */
  async #send(): Promise<void> {
    const { lease, snapshot } = this.#what;
    try {
      do {
        if (this.#trouble !== undefined) return;
        const extents = this.#ready
          .splice(0, EXTENTS_AT_ONCE)
          .map(([start, end]) => ({ start, length: end - start }));
        const answer = await this.#client.ask<{ extents: Extent[] }>('POST', `/leases/${lease}/drain`, {
          snapshot,
          extents,
        });
        for (const { start, length } of answer.extents) this.#urgent.push([start, length]);
      } while (this.#ready.length > 0);
    } catch (error) {
      this.#trouble = error instanceof Error ? error.message : String(error);
    }
  }
}
