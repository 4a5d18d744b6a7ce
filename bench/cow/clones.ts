/**
 * FICLONE's side: a file on an XFS of its own, on a loop device, cloned before it is written.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { atEnd, isMounted, run } from '../process.js';

const MIB = 2 ** 20;

export interface Clones {
  readonly file: string;
  /** Drops the clone and makes another. */
  fresh(): Promise<void>;
  stop(): Promise<void>;
}

/** `content` is copied there. Undefined, with the reason told, where this machine cannot. */
export async function clones(
  folder: string,
  content: string,
  size: number,
  say: (text: string) => void,
): Promise<Clones | undefined> {
  const image = join(folder, 'xfs.img');
  const point = join(folder, 'xfs');
  writeFileSync(image, '');
  truncateSync(image, 2 * size + 640 * MIB);
  mkdirSync(point, { recursive: true });
  let device = '';
  const undo = atEnd(() => {
    if (isMounted(point)) execFileSync('umount', [point]);
    if (device) execFileSync('losetup', ['-d', device]);
    rmSync(image, { force: true });
  });
  try {
    await run('mkfs.xfs', ['-q', '-f', '-m', 'reflink=1', image]);
    device = (await run('losetup', ['-f', '--show', image])).trim();
    await run('mount', ['-t', 'xfs', device, point]);
  } catch (error) {
    undo();
    say(`no XFS to clone on: ${String(error).split('\n')[0]}`);
    return undefined;
  }
  const file = join(point, 'disk');
  await run('cp', [content, file]);
  return {
    file,
    async fresh() {
      rmSync(`${file}.clone`, { force: true });
      await run('sync', ['-f', point]);
      await run('cp', ['--reflink=always', file, `${file}.clone`]);
    },
    async stop() {
      undo();
    },
  };
}
