/**
 * A raw image: the bytes of the file are the bytes of the disk. Nothing in a file says that it is raw, so this
 * format recognises nothing; it is taken where the user or a child says so, and for a named file that no other
 * format recognises.
 *
 * The disk has the file's exact size, even where that is no multiple of a sector.
 */
import type { ImageFile } from '../block/file.js';
import type { Layer } from '../block/source.js';
import { checkRange } from '../block/source.js';
import type { Image, ImageFormat } from './format.js';

export const raw: ImageFormat = {
  name: 'raw',
  probe: () => 'no',
  open(file): Image {
    return {
      file,
      format: 'raw',
      size: file.size,
      sectorSize: 512,
      features: [],
      layer: layerOf(file),
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      troubles: [],
      check: () => [],
    };
  },
};

function layerOf(file: ImageFile): Layer {
  return {
    size: file.size,
    *extents(offset, length) {
      checkRange(file.size, offset, length);
      if (length > 0) yield { kind: 'data', length, file, offset };
    },
    close() {},
  };
}
