/**
 * A window: a part of a disk that is a disk, such as a partition.
 */
import { type BlockSource, checkRange, type SectorSize } from './source.js';

/**
 * The `size` bytes of `source` from `start`. Closing the window closes the source.
 * Throws OUT_OF_RANGE where the window does not lie within the source.
 */
export function window(
  source: BlockSource,
  start: number,
  size: number,
  sectorSize: SectorSize = source.sectorSize,
): BlockSource {
  checkRange(source.size, start, size);
  return {
    size,
    sectorSize,
    extents(offset, length) {
      checkRange(size, offset, length);
      return source.extents(start + offset, length);
    },
    close: () => source.close(),
  };
}
