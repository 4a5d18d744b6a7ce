/**
 * The images of other systems that are measured: the same content in every row, about half of which compresses away; for
 * shadow copies a volume of noise, as its blocks are only moved about.
 */
import { createReadStream, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { shadowVolume } from '../../test/fixtures/shadow.js';
import { makeImages as makeContent } from '../content.js';
import { run } from '../process.js';

const MIB = 2 ** 20;

export const ROWS = ['e01', 'e01-none', 'vhd', 'vhdx', 'vmdk', 'vmdk-stream', 'vdi', 'shadow copy'] as const;
export type Row = (typeof ROWS)[number];

export interface Image {
  readonly row: Row;
  readonly file: string;
}

/** As qemu-img makes them: its name of the format, and options. */
const QEMU: Partial<Record<Row, readonly string[]>> = {
  vhd: ['vpc', '-o', 'subformat=dynamic,force_size=on'],
  vhdx: ['vhdx'],
  vmdk: ['vmdk'],
  'vmdk-stream': ['vmdk', '-o', 'subformat=streamOptimized'],
  vdi: ['vdi'],
};

/** Throws where a program that makes one is missing or fails. */
export async function makeImages(
  folder: string,
  size: number,
  rows: readonly Row[],
  say: (text: string) => void,
): Promise<Image[]> {
  const [content] = await makeContent(folder, size, ['raw'], say);
  const raw = content!.file;
  const images: Image[] = [];
  for (const row of rows) {
    say(row);
    const name = join(folder, row.replace(' ', '-'));
    if (row === 'e01' || row === 'e01-none') {
      const level = row === 'e01' ? 'fast' : 'none';
      await run('ewfacquire', ['-u', '-q', '-c', level, '-S', '64GiB', '-f', 'encase6', '-t', name, raw]);
      images.push({ row, file: `${name}.E01` });
    } else if (row === 'shadow copy') {
      const blocks = size / 16384;
      writeFileSync(
        name,
        shadowVolume({ seed: 5, stores: 3, descriptors: Math.floor(blocks / 8), blocks }).bytes,
      );
      images.push({ row, file: name });
    } else {
      const [format, ...options] = QEMU[row]!;
      const file = `${name}.${format === 'vpc' ? 'vhd' : format}`;
      await run('qemu-img', ['convert', '-f', 'raw', '-O', format!, ...options, raw, file]);
      images.push({ row, file });
    }
  }
  return images;
}

/** Into the page cache, or out of it. A file system without storage (tmpfs) keeps it all the same. */
export async function temper({ file }: Image, state: 'warm' | 'cold'): Promise<void> {
  if (state === 'cold') {
    await run('sync', [file]);
    await run('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
    return;
  }
  for await (const _ of createReadStream(file, { highWaterMark: MIB })) {
    // Only to have been read.
  }
}
