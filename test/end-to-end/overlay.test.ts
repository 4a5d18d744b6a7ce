/**
 * QEMU writes through the writable view of an image as it writes to an overlay of its own, and the images keep every byte.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { attempt, missing, run } from '../peers.js';
import { asof, digest, mount, scratch, unmount } from './mounted.js';

t.setTimeout(180_000);

const MiB = 2 ** 20;

t.test('QEMU writes through it', { skip: missing(['qemu-img', 'qemu-io', 'cat'], ['fuse']) }, async t => {
  const folder = await scratch(t);
  const base = join(folder, 'base.qcow2');
  const image = join(folder, 'image.qcow2');
  // No multiple of a block, as no guest would mind.
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', base, String(16 * MiB + 512)]);
  await run('qemu-io', ['-c', 'write -P 1 0 4M', '-c', 'write -P 2 9M 3M', base]);
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'base.qcow2', image]);
  await run('qemu-io', ['-c', 'write -P 3 2M 1M', '-c', 'write -z 10M 64k', image]);
  const before = [await digest(base), await digest(image)];
  const theirs = join(folder, 'theirs.qcow2');
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'image.qcow2', theirs]);
  const layer = join(folder, 'layer');
  let shown = await mount(t, image, '--overlay', layer);
  const writes = [
    ['write -P 7 1M 64k', 'write -P 8 2097664 1000k', 'write -z 3M 128k'],
    ['write -P 9 512 512', 'write -z -u 9M 1M', 'write -P 10 16776704 1024', 'flush'],
    ['discard 64k 64k', 'write -z 64k 64k', 'writev -P 11 5M 512 1k 512', 'flush'],
  ];
  for (const [i, group] of writes.entries()) {
    const commands = group.flatMap(one => ['-c', one]);
    await run('qemu-io', ['-f', 'qcow2', ...commands, theirs]);
    await run('qemu-io', ['-f', 'raw', ...commands, join(shown, 'disk')]);
    const same = ['compare', '-f', 'raw', '-F', 'qcow2', join(shown, 'disk'), theirs];
    t.match((await attempt('qemu-img', same)).stdout.toString(), 'identical', `group ${i}`);
    await unmount(shown);
    shown = await mount(t, image, '--overlay', layer);
    t.match(
      await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', join(shown, 'disk'), theirs]),
      'identical',
    );
  }
  const info = JSON.parse(await run('cat', [join(shown, 'info.json')])) as { overlay: unknown };
  t.match(info.overlay, { file: layer, written: Number });
  await unmount(shown);
  t.same([await digest(base), await digest(image)], before, 'the images keep every byte');

  const elsewhere = join(folder, 'mnt');
  mkdirSync(elsewhere);
  const other = await asof('mount', base, elsewhere, `--overlay=${layer}`, '--json');
  t.equal(other.code, 2);
  t.match(JSON.parse(other.stderr), {
    error: { code: 'OVERLAY_UNUSABLE', message: /another point: image\.qcow2/ },
  });
  const unable = await asof('mount', base, elsewhere, '--overlay', '--driver', 'fuse-native', '--json');
  t.equal(unable.code, 2);
  t.match(JSON.parse(unable.stderr), { error: { code: 'DRIVER_UNAVAILABLE' } });
});
