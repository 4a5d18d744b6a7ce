/**
 * A raw image: the bytes of the file are the bytes of the disk. Nothing in a file says that it is raw, so this
 * format recognises nothing; it is taken where the user or a child says so, and for a named file that no other
 * format recognises.
 *
 * The disk has the file's exact size, even where that is no multiple of a sector (block/raw-file.ts).
 */
import { rawLayer } from '../block/raw-file.js';
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
      layer: rawLayer(file),
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      troubles: [],
      check: () => [],
    };
  },
};
