/**
 * Readers at once, each a process of its own, agree with what qemu-img makes of the image.
 */
import { join } from 'node:path';
import t from 'tap';
import { attempt, missing, run } from '../peers.js';
import { makeLayer } from './images.js';
import { digest, mount, scratch } from './mounted.js';

const skip = missing(['qemu-img', 'qemu-io', 'cmp', 'dd'], ['fuse']);
const SIZE = 40 * 2 ** 20 + 4096;

t.test('cmp, dd and qemu-img compare at the same time', { skip }, async t => {
  const folder = await scratch(t);
  const common = { version: 3, clusterSize: 65_536, size: SIZE, subclusters: false } as const;
  await makeLayer(folder, { ...common, file: '0.qcow2', seed: 1, compression: 'zstd' });
  await makeLayer(folder, { ...common, file: '1.qcow2', seed: 2, compression: 'zlib', base: '0.qcow2' });
  const raw = join(folder, 'oracle.raw');
  await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', join(folder, '1.qcow2'), raw]);
  const disk = join(await mount(t, join(folder, '1.qcow2')), 'disk');

  const copy = (flags: string[], name: string) =>
    run('dd', [`if=${disk}`, `of=${join(folder, name)}`, 'status=none', ...flags]);
  const [compared, , , imaged] = await Promise.all([
    attempt('cmp', [disk, raw]),
    copy(['iflag=direct', 'bs=1M'], 'direct'),
    copy(['bs=4999'], 'odd'),
    attempt('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', disk, raw]),
  ]);
  t.equal(compared.code, 0, `cmp: ${compared.stdout}`);
  t.equal(imaged.code, 0, `qemu-img compare: ${imaged.stdout}${imaged.stderr}`);
  const truth = await digest(raw);
  t.equal(await digest(join(folder, 'direct')), truth, 'O_DIRECT');
  t.equal(await digest(join(folder, 'odd')), truth, 'odd lengths');
});
