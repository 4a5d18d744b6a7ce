/**
 * `asof mount --verify`: compares the disk with the digests that its image carries, while the disk is being used. Evidence
 * is opened at once; whether it is what was acquired is known when all of it has been read.
 */
import { setTimeout } from 'node:timers/promises';
import type { Disk } from './block/disk.js';
import { AsofError } from './errors.js';
import type { StoredDigest } from './image/format.js';
import { Digesting } from './stored-digest.js';

/** Bytes of one read: hashing them keeps the thread that answers reads for two milliseconds. */
const PIECE = 2 ** 20;
/** Milliseconds of rest after a piece, for those who read. */
const PAUSE = 1;

export interface DigestVerdict {
  /** `none`: the image carries no digest. `matches` and `differs` speak of all of them. */
  readonly state: 'none' | 'running' | 'matches' | 'differs' | 'unreadable';
  /** Bytes that have been read, and of the disk. */
  readonly done: number;
  readonly size: number;
  readonly digests: readonly {
    readonly algorithm: string;
    readonly stored: string;
    /** null until all has been read. */
    readonly found: string | null;
  }[];
  /** Why not all can be read; '' where it could. */
  readonly why: string;
  /** When the verdict was reached. */
  readonly time: string | null;
}

export class DigestCheck {
  readonly #disk: Disk;
  readonly #digests: readonly StoredDigest[];
  #found: readonly string[] = [];
  #done = 0;
  #why = '';
  #time: Date | undefined;
  #stopped = false;

  /** Owns `disk`. */
  constructor(disk: Disk, digests: readonly StoredDigest[]) {
    this.#disk = disk;
    this.#digests = digests;
  }

  /** Ends when there is a verdict, or when it is stopped. */
  async run(): Promise<DigestVerdict> {
    const hashes = this.#digests.map(stored => new Digesting(stored));
    try {
      while (hashes.length > 0 && this.#done < this.#disk.size) {
        const piece = await this.#disk.read(this.#done, Math.min(PIECE, this.#disk.size - this.#done));
        for (const hash of hashes) hash.update(this.#done, piece);
        this.#done += piece.length;
        await setTimeout(PAUSE);
        if (this.#stopped) return this.verdict();
      }
      this.#found = hashes.map(hash => hash.digest());
    } catch (error) {
      if (this.#stopped) return this.verdict();
      if (!(error instanceof AsofError)) throw error;
      this.#why = error.message;
    }
    this.#time = new Date();
    return this.verdict();
  }

  verdict(): DigestVerdict {
    const same = () => this.#found.every((found, i) => found === this.#digests[i]!.value);
    const reached = this.#why !== '' ? 'unreadable' : same() ? 'matches' : 'differs';
    return {
      state: this.#digests.length === 0 ? 'none' : this.#time ? reached : 'running',
      done: this.#done,
      size: this.#disk.size,
      digests: this.#digests.map(({ algorithm, value }, i) => ({
        algorithm,
        stored: value,
        found: this.#found[i] ?? null,
      })),
      why: this.#why,
      time: this.#time?.toISOString() ?? null,
    };
  }

  /** A second call does nothing. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#disk.close();
  }
}
