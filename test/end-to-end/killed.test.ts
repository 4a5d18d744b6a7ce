/**
 * A server that was killed leaves a dead mount behind; mounting there again replaces it.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { pattern } from './images.js';
import { asof, digest, mount, scratch, serverOf } from './mounted.js';

const skip = missing(['qemu-img'], ['fuse']);

t.test('kill -9, then mount again', { skip }, async t => {
  const folder = await scratch(t);
  const raw = join(folder, 'disk.raw');
  await writeFile(raw, pattern(9, 5_000_192));
  const image = join(folder, 'disk.qcow2');
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  const truth = await digest(raw);

  const mounted = await mount(t, image);
  t.equal(await digest(join(mounted, 'disk')), truth);
  for (let round = 0; round < 3; round++) {
    const server = await serverOf(mounted);
    process.kill(server, 'SIGKILL');
    await t.resolves(dead(mounted), 'the mount is dead');
    const again = await asof('mount', image, mounted);
    t.equal(again.code, 0, `mounted again: ${again.stderr}`);
    t.equal(await digest(join(mounted, 'disk')), truth, 'and has the bytes');
    t.not(await serverOf(mounted), server, 'by another server');
  }
});

/** Polls until a listing of the mount fails, for half a minute at most. */
async function dead(mounted: string): Promise<void> {
  for (let i = 0; i < 300; i++) {
    try {
      await readFile(join(mounted, 'info.json'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOTCONN') return;
    }
    await new Promise(resolve => setTimeout(resolve, 100));
  }
  throw new Error('the mount still answers');
}
