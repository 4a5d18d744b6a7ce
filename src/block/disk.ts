/**
 * A disk that can be read: a source, opened in the engine. The mount reads the same object natively.
 */
import type { Engine, NativeDisk } from '../native.js';
import type { ImageFile } from './file.js';
import { compileRegion } from './region.js';
import { type BlockSource, checkRange } from './source.js';

/** A run of a disk that could not be vouched for. Bytes. */
export interface Defect {
  readonly offset: number;
  readonly length: number;
  readonly why: string;
}

/** `error`: a read that touches a damaged sector fails. `zero`: it reads as zeros, and still counts as a defect. */
export type OnDamage = 'error' | 'zero';

export class Disk {
  readonly source: BlockSource;
  /** The engine's object, for the mount. */
  readonly native: NativeDisk;

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
    await this.native.read(offset, buffer);
    return buffer;
  }

  /** The defects that reads have met so far, in order, joined. */
  defects(): Defect[] {
    return this.native.defects();
  }

  close(): void {
    this.native.close();
    this.source.close();
  }
}
