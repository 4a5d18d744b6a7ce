import type { ImageFile } from './file.js';
import { type BlockSource, checkRange, type SectorSize } from './source.js';

/** A disk of `size` zeros. */
export function zeros(size: number, sectorSize: SectorSize, by?: ImageFile): BlockSource {
  return {
    size,
    sectorSize,
    *extents(offset, length) {
      checkRange(size, offset, length);
      if (length > 0) yield { kind: 'zero', length, by };
    },
    close() {},
  };
}
