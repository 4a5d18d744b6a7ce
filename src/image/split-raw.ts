/**
 * A raw image in segments, as imaging tools split it: NAME.000, NAME.001 and so on, or from NAME.001. The disk is the
 * segments one behind the other. Known by its name and by another segment beside it; a gap in the numbers is
 * refused, since a later segment without an earlier one is no disk.
 *
 * Segments bear no mark of their own. All but the last have one size, by which one that was cut off is known: what it
 * lacks is bad, and what lies behind it stays where it was. Sizes that are not to be explained so are refused.
 */
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { concat } from '../block/concat.js';
import type { ImageFile } from '../block/file.js';
import { rawLayer } from '../block/raw-file.js';
import { checkRange, type Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import { examineBlocks } from './blocks.js';
import type { Finding } from './finding.js';
import type { Image, ImageFormat } from './format.js';

export const splitRaw: ImageFormat = {
  name: 'split-raw',
  probe: file => (isFirst(file.path) && highest(file.path) > 0 ? 'yes' : 'no'),
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
    const last = highest(file.path);
    if (last >= files.length) {
      throw new AsofError(
        'PARENT_MISSING',
        `${beside(file.path, files.length)} is missing, but ${beside(file.path, last)} is there`,
      );
    }
    const size = commonSize(files);
    const troubles: string[] = [];
    const layer = concat(
      files.map((one, i) => {
        const missing = i < files.length - 1 ? size - one.size : 0;
        if (missing > 0) troubles.push(`${basename(one.path)} is cut off: ${missing} bytes are missing`);
        return padded(one, one.size + missing);
      }),
    );
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
      troubles,
      check: () => examine(files, layer, troubles),
    };
  },
};

/**
 * The size of all segments but the last, which may be shorter. Throws IMAGE_CORRUPT where they have none: nobody knows then
 * whether segments were cut off or swapped, and where on the disk the others belong.
 */
function commonSize(files: readonly ImageFile[]): number {
  const last = files.at(-1)!;
  const full = files.slice(0, -1);
  if (full.length === 0) return last.size;
  const counts = new Map<number, number>();
  for (const { size } of full) counts.set(size, (counts.get(size) ?? 0) + 1);
  const [size, count] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
  const odd = full.find(one => one.size !== size) ?? last;
  // One that is cut off, or the short last one in its place: where the last is full, both look the same.
  const unclear = counts.size > 1 && (count * 2 <= full.length || full.length < 3 || last.size >= size);
  const larger = full.find(one => one.size > size) ?? (last.size > size ? last : undefined);
  if (!unclear && !larger) return size;
  throw new AsofError(
    'IMAGE_CORRUPT',
    `${(larger ?? odd).path} has ${(larger ?? odd).size} bytes, other segments ${size}: segments were cut off, swapped, or are of other images`,
    'where they are whole and in order, a file made of them with cat is a raw image',
  );
}

/** `size` bytes, of which those that the file does not have are bad. */
function padded(file: ImageFile, size: number): Layer {
  const layer = rawLayer(file);
  const why = `${file.path} ends before these bytes`;
  return {
    size,
    *extents(offset, length) {
      checkRange(size, offset, length);
      const there = Math.max(0, Math.min(length, file.size - offset));
      if (there > 0) yield* layer.extents(offset, there);
      if (there < length) yield { kind: 'bad', length: length - there, why, by: file };
    },
    close() {},
  };
}

function* examine(
  files: readonly ImageFile[],
  layer: Layer,
  troubles: readonly string[],
): Generator<Finding, void, undefined> {
  if (troubles.length > 0) yield* examineBlocks(files[0]!, layer, troubles);
}

function isFirst(path: string): boolean {
  return path.endsWith('.000') || (path.endsWith('.001') && !existsSync(`${path.slice(0, -4)}.000`));
}

/** How far behind the first the last segment that is there stands; 0 where there is none. */
function highest(first: string): number {
  const start = Number(first.slice(-3));
  const stem = basename(first).slice(0, -3);
  let last = 0;
  for (const name of readdirSync(dirname(first))) {
    const number = name.startsWith(stem) ? name.slice(stem.length) : '';
    if (/^\d{3}$/.test(number)) last = Math.max(last, Number(number) - start);
  }
  return last;
}

/** The path of the segment `step` behind the first. */
function beside(first: string, step: number): string {
  const number = Number(first.slice(-3)) + step;
  return join(dirname(first), basename(first).slice(0, -3) + String(number).padStart(3, '0'));
}
