/**
 * Memory of the daemon for each chunk: of a volume that nobody wrote, of one that was written everywhere while nothing had
 * to be copied (by discarding it, which counts as writing), and of copied chunks.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, temporaryFolder } from '../process.js';
import { figure, table } from '../table.js';
import type { Aim } from './aims.js';
import { Daemon } from './daemon.js';
import { CHUNK } from './load.js';

const GIB = 2 ** 30;
const TIB = 2 ** 40;

export async function footprint(
  parent: string,
  quick: boolean,
  say: (text: string) => void,
): Promise<{ table: string; aims: Aim[] }> {
  const folder = temporaryFolder(parent, 'memory');
  const daemon = await Daemon.start(folder);
  const rows: string[][] = [];
  const perChunk: number[] = [];
  const state = async (name: string, chunks: number, change: () => Promise<void>) => {
    const before = resident(daemon.pid);
    await change();
    const bytes = resident(daemon.pid) - before;
    perChunk.push(bytes / chunks);
    rows.push([name, String(chunks), figure(bytes / 2 ** 20), figure(bytes / chunks)]);
  };
  const volume = async (name: string, size: number, chunkSize: number) => {
    const origin = join(folder, name);
    writeFileSync(origin, '');
    truncateSync(origin, size);
    const store = join(folder, `${name}.store`);
    await daemon.add({ name, origin, store, durability: 'process', chunkSize });
  };
  const discard = (name: string, length: number, offset = 0) =>
    run('fallocate', ['-p', '-o', String(offset), '-l', String(length), daemon.live(name)]).then(() => {});
  try {
    // What is not of a volume is made with the first one.
    await volume('first', GIB, CHUNK);
    await discard('first', GIB);
    await daemon.snapshot('first');
    const large = 4 * TIB;
    say('memory: a volume of 4 TiB');
    await state('4 TiB sparse, nothing written', large / CHUNK, () => volume('large', large, CHUNK));
    const written = quick ? 256 * GIB : TIB;
    say('memory: written all over');
    await state('of which written, nothing copied', written / CHUNK, () => discard('large', written));
    const copied = quick ? GIB / 8 : GIB / 2;
    await volume('copied', GIB, 4096);
    await discard('copied', GIB);
    await daemon.snapshot('copied');
    // What copying itself needs comes with the first copies.
    const share = GIB / 16;
    await discard('copied', share);
    say('memory: copied chunks');
    await state('copied, chunks of 4 KiB', copied / 4096, () => discard('copied', copied, share));
  } finally {
    await daemon.stop();
  }
  const reached = Math.max(perChunk[0] ?? Number.NaN, perChunk[1] ?? Number.NaN);
  return {
    table: table(['memory', 'chunks', 'MiB', 'bytes a chunk'], rows),
    aims: [
      {
        aim: 'memory a chunk where nothing is copied',
        reached,
        unit: 'bytes',
        limit: 4,
        at: 'most',
        where: rows[reached === perChunk[0] ? 0 : 1]?.[0] ?? '',
      },
    ],
  };
}

function resident(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1] ?? Number.NaN) * 1024;
}
