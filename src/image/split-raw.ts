/**
 * A raw image in segments, as imaging tools split it: NAME.000, NAME.001 and so on, or from NAME.001. The disk is the
 * segments one behind the other. Known by its name and by a second segment beside it; a gap in the numbers is
 * refused, since a later segment without an earlier one is no disk.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { concat } from '../block/concat.js';
import type { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import { AsofError } from '../errors.js';
import type { Image, ImageFormat } from './format.js';

export const splitRaw: ImageFormat = {
  name: 'split-raw',
  probe: file => (isFirst(file.path) && existsSync(beside(file.path, 1)) ? 'yes' : 'no'),
  open(file, { companion }): Image {
    if (!isFirst(file.path)) {
      throw new AsofError(
        'IMAGE_CORRUPT',
        `${file.path} is not the first segment of a split image: its name ends in neither .000 nor .001`,
        'name the first segment',
      );
    }
    const files: ImageFile[] = [file];
    while (existsSync(beside(file.path, files.length))) {
      files.push(companion(basename(beside(file.path, files.length))));
    }
    const gap = beside(file.path, files.length + 1);
    if (existsSync(gap)) {
      throw new AsofError(
        'PARENT_MISSING',
        `${beside(file.path, files.length)} is missing, but ${gap} is there`,
      );
    }
    const layer = concat(files.map(rawLayer));
    return {
      file,
      format: 'split-raw',
      size: layer.size,
      sectorSize: 512,
      features: [`segments=${files.length}`],
      layer,
      snapshots: [],
      parent: undefined,
      dataFile: undefined,
      troubles: [],
      check: () => [],
    };
  },
};

function isFirst(path: string): boolean {
  return path.endsWith('.000') || (path.endsWith('.001') && !existsSync(`${path.slice(0, -4)}.000`));
}

/** The path of the segment `step` behind the first. */
function beside(first: string, step: number): string {
  const number = Number(first.slice(-3)) + step;
  return join(dirname(first), basename(first).slice(0, -3) + String(number).padStart(3, '0'));
}
