/** ext2, ext3, ext4: the journal by debugfs(8), what is free by dumpe2fs(8). */
import type { Place } from './owners.js';
import type { Run } from './runs.js';
import { ask } from './tools.js';

/** The inode of the journal: EXT4_JOURNAL_INO. */
const JOURNAL = 8;

export async function extJournal({ device, signal }: Place): Promise<Run[]> {
  const size = await blockSize(device, signal);
  const text = await ask('debugfs', ['-R', `blocks <${JOURNAL}>`, device], signal);
  const runs: [number, number][] = [];
  for (const word of text.split(/\s+/)) {
    const at = Number(word) * size;
    if (!/^\d+$/.test(word) || at === 0) continue;
    const last = runs.at(-1);
    if (last && last[0] + last[1] === at) last[1] += size;
    else runs.push([at, size]);
  }
  return runs;
}

export async function extFree({ device, signal }: Place): Promise<Run[]> {
  const text = await ask('dumpe2fs', [device], signal);
  const size = sizeIn(text);
  const runs: Run[] = [];
  // "  Free blocks: 9127-16383, 16400"; the line of the head has a number alone, and no two spaces before it.
  for (const [, list] of text.matchAll(/^ {2}Free blocks: (.*)$/gm)) {
    for (const range of list!.split(',')) {
      const [, first, last] = /^\s*(\d+)(?:-(\d+))?\s*$/.exec(range) ?? [];
      if (first === undefined) continue;
      runs.push([Number(first) * size, (Number(last ?? first) - Number(first) + 1) * size]);
    }
  }
  return runs;
}

async function blockSize(device: string, signal?: AbortSignal): Promise<number> {
  return sizeIn(await ask('dumpe2fs', ['-h', device], signal));
}

function sizeIn(text: string): number {
  const size = Number(/^Block size: +(\d+)$/m.exec(text)?.[1]);
  if (size >= 1024 && size <= 65536) return size;
  throw new Error('dumpe2fs does not say the size of a block');
}
