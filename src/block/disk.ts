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

/** Runs between two looks at the clock. */
const CHECK = 64;

export class Disk {
  readonly source: BlockSource;
  /** The engine's object, for the mount. */
  readonly native: NativeDisk;
  #closed = false;
  #allocated: number | undefined;

  constructor(engine: Engine, source: BlockSource, onDamage: OnDamage = 'error') {
    this.source = source;
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
   * Counts the bytes that are no zero runs and tells the engine, for st_blocks. It walks the whole map; every few
   * milliseconds it lets the JavaScript thread answer reads, for `pause` milliseconds at least. The count, or undefined
   * where the disk was closed meanwhile.
   */
  async countAllocated(pause = 0): Promise<number | undefined> {
    let bytes = 0;
    let runs = 0;
    let began = performance.now();
    for (const run of this.source.extents(0, this.size)) {
      if (run.kind !== 'zero') bytes += run.length;
      if (++runs % CHECK !== 0 || performance.now() - began < COUNT_SLICE) continue;
      await setTimeout(pause);
      if (this.#closed) return undefined;
      began = performance.now();
    }
    if (this.#closed) return undefined;
    this.#allocated = bytes;
    this.native.setAllocated(bytes);
    return bytes;
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
