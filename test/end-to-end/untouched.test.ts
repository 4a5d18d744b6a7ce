/**
 * Whatever is done with a chain, its files keep their bytes and their times: they are evidence.
 */
import { stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { makeLayer } from './images.js';
import { asof, digest, mount, points, scratch, unmount } from './mounted.js';

const skip = missing(['qemu-img', 'qemu-io'], ['fuse']);

t.test('every command and a mount leave the files as they were', { skip }, async t => {
  const folder = await scratch(t);
  const common = { version: 3, clusterSize: 65_536, size: 3_000_320, subclusters: false } as const;
  await makeLayer(folder, { ...common, file: '0.qcow2', seed: 21, compression: 'zlib' });
  await makeLayer(folder, { ...common, file: '1.qcow2', seed: 22, compression: 'none', base: '0.qcow2' });
  const head = join(folder, '1.qcow2');
  await run('qemu-img', ['snapshot', '-c', 'kept', head]);
  const raw = join(folder, 'plain.raw');
  await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', head, raw]);
  const files = [join(folder, '0.qcow2'), head, raw];

  const state = async () =>
    Promise.all(
      files.map(async file => {
        const { size, mtimeMs, atimeMs, ctimeMs } = await stat(file);
        return { size, mtimeMs, atimeMs, ctimeMs };
      }),
    );
  const bytes = await Promise.all(files.map(digest));
  // An access time before the modification time is what relatime would renew at the first read.
  for (const file of files) await utimes(file, new Date('2020-01-01'), new Date('2021-01-01'));
  const before = await state();

  const listed = await points(head);
  t.equal(listed.length, 3);
  for (const args of [
    ['info', head],
    ['points', head],
    ['map', head],
    ['check', head],
    ['read', head, '--offset', '0', '--length', '65536'],
    ['compare', head, listed[0]!.id, listed.at(-1)!.id],
  ]) {
    const { code, stderr } = await asof(...args);
    t.equal(code, 0, `asof ${args[0]}: ${stderr}`);
  }
  for (const file of [head, raw]) {
    const mounted = await mount(t, file);
    t.equal(await digest(join(mounted, 'disk')), bytes[2], 'the mount has the bytes');
    await unmount(mounted);
  }

  t.same(await state(), before, 'sizes and times');
  t.same(await Promise.all(files.map(digest)), bytes, 'bytes');
});
