/**
 * A disk that can be read: a source, opened in the engine. The mount reads the same object natively.
 */
import { setTimeout } from 'node:timers/promises';
import { AsofError } from '../errors.js';
import type { Engine, NativeDisk } from '../native.js';
import type { ImageFile } from './file.js';
import { compileRegion } from './region.js';
import { type BlockSource, checkRange } from './source.js';

/** A run of a disk that could not be vouched for: whole sectors. Bytes. */
export interface Defect {
  readonly offset: number;
  readonly length: number;
  readonly why: string;
}

/** `error`: a read that touches a damaged sector fails. `zero`: it reads as zeros, and still counts as a defect. */
export type OnDamage = 'error' | 'zero';

/** Milliseconds for which a count of the allocation keeps the JavaScript thread from answering reads. */
const COUNT_SLICE = 5;

export class Disk {
  readonly source: BlockSource;
  /** The engine's object, for the mount. */
  readonly native: NativeDisk;
  readonly #engine: Engine;
  #closed = false;
  #allocated: number | undefined;

  constructor(engine: Engine, source: BlockSource, onDamage: OnDamage = 'error') {
    this.source = source;
    this.#engine = engine;
    const idOf = (file: ImageFile) => engine.fileId(file);
    this.native = engine.openDisk(source.size, source.sectorSize, onDamage === 'zero', offset =>
      compileRegion(source, offset, idOf),
    );
  }

  get size(): number {
    return this.source.size;
  }

  /**
   * The bytes of [offset, offset + length).
   * Throws OUT_OF_RANGE, or DAMAGED where any of them cannot be vouched for.
   */
  async read(offset: number, length: number): Promise<Buffer> {
    checkRange(this.size, offset, length);
    const buffer = Buffer.allocUnsafe(length);
    try {
      await this.native.read(offset, buffer);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'DAMAGED')) throw error;
      throw this.#damaged(offset, length, error);
    }
    return buffer;
  }

  /** The defects that reads have met so far, in order, joined. */
  defects(): Defect[] {
    return this.native.defects();
  }

  /** Bytes that are no zero runs; undefined until they have been counted. */
  get allocated(): number | undefined {
    return this.#allocated;
  }

  /**
   * Counts the bytes that are no zero runs and tells the engine, for st_blocks. With `learn` the engine learns the map on
   * the way, as much of it as fills half of what it may keep, so that first reads find it. Every few milliseconds the
   * JavaScript thread is free to answer reads, for `pause` milliseconds at least. The count, or undefined where the disk
   * was closed meanwhile.
   */
  async countAllocated({ pause = 0, learn = false } = {}): Promise<number | undefined> {
    let bytes = 0;
    let began = performance.now();
    for (const count of this.#counts(learn)) {
      bytes += count;
      if (performance.now() - began < COUNT_SLICE) continue;
      await setTimeout(pause);
      if (this.#closed) return undefined;
      began = performance.now();
    }
    if (this.#closed) return undefined;
    this.#allocated = bytes;
    this.native.setAllocated(bytes);
    return bytes;
  }

  /** Bytes that are no zero runs, piece by piece: regions while the engine has room for them, then runs. */
  *#counts(learn: boolean): Generator<number, void, undefined> {
    let offset = 0;
    while (learn && offset < this.size) {
      const { mapBytes, mapLimit } = this.#engine.stats();
      const region = mapBytes < mapLimit / 2 ? this.native.learn(offset) : undefined;
      if (!region) break;
      yield region.allocated;
      offset = region.end;
    }
    for (const run of this.source.extents(offset, this.size - offset))
      yield run.kind === 'zero' ? 0 : run.length;
  }

  /** Waits for the reads that are under way. A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.native.close();
    this.source.close();
  }

  #damaged(offset: number, length: number, cause: Error): AsofError {
    const end = offset + length;
    const first = this.defects().find(
      defect => defect.offset < end && defect.offset + defect.length > offset,
    );
    const why = first
      ? `the ${first.length} bytes at offset ${first.offset} cannot be vouched for: ${first.why}`
      : `bytes of [${offset}, ${end}) cannot be vouched for`;
    return new AsofError('DAMAGED', why, 'asof check FILE lists what is damaged', { cause });
  }
}
