/**
 * The one noun for a disk. A raw file, a qcow2 image, a chain, a partition in it: each is a `BlockSource`, and what
 * wraps one is one again. A source only says where bytes live; reading them is the engine's work (native/engine.h).
 */
import { AsofError } from '../errors.js';
import type { Extent, LayerExtent } from './extent.js';

export type SectorSize = 512 | 4096;

/** Runs of something that has a size. `E` is `Extent` for a disk and `LayerExtent` for a layer of one. */
export interface Mapping<E extends LayerExtent> {
  /** Bytes, from 0 to 2^53 - 1. */
  readonly size: number;
  /**
   * The runs of [offset, offset + length), in order, covering it exactly; none is empty. Lazy: a caller may stop
   * early, and a run of any length costs about as much as the metadata that describes it.
   *
   * Throws OUT_OF_RANGE where the range does not lie within the size. Metadata that cannot be read or believed is
   * a `bad` run of what it describes, never an exception.
   */
  extents(offset: number, length: number): Iterable<E>;
  /** Releases the files. A second call does nothing; `extents` after it is a bug. */
  close(): void;
}

/** A read-only disk. */
export interface BlockSource extends Mapping<Extent> {
  readonly sectorSize: SectorSize;
}

/** One layer of a disk, which may say nothing of a range: an overlay image without what lies below it. */
export type Layer = Mapping<LayerExtent>;

/** Throws OUT_OF_RANGE unless [offset, offset + length) lies within `size`. A range of 0 bytes may stand at the end. */
export function checkRange(size: number, offset: number, length: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (whole && offset >= 0 && length >= 0 && length <= size - offset) return;
  throw new AsofError(
    'OUT_OF_RANGE',
    `${length} bytes at offset ${offset} do not lie within the disk, which has ${size} bytes`,
    'asof info FILE shows the size',
  );
}
