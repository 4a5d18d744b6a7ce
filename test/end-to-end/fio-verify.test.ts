/**
 * What fio has written reads back: by one reader, and by four at once that read in different ways. Each block of
 * 4 KiB carries its own offset and checksum, so that fio notices any block in another's place.
 */
import { join } from 'node:path';
import t from 'tap';
import { attempt, missing, run } from '../peers.js';
import { mount, scratch } from './mounted.js';

const skip = missing(['fio', 'qemu-img'], ['fuse']);
const SIZE = '48M';

const VERIFY = ['--verify=crc32c', '--bs=4k', `--size=${SIZE}`, '--verify_fatal=1', '--thread'];
const READERS = [
  ['--name=sequential-buffered', '--rw=read', '--ioengine=psync'],
  ['--name=random-direct', '--rw=randread', '--ioengine=libaio', '--direct=1', '--iodepth=8'],
  ['--name=random-mmap', '--rw=randread', '--ioengine=mmap'],
  ['--name=sequential-direct', '--rw=read', '--ioengine=psync', '--direct=1'],
];

t.test('patterns', { skip }, async t => {
  const folder = await scratch(t);
  const raw = join(folder, 'written.raw');
  await run('fio', [
    '--name=write',
    `--filename=${raw}`,
    '--rw=randwrite',
    '--ioengine=psync',
    '--do_verify=0',
    '--verify_state_save=0',
    '--randseed=7',
    '--refill_buffers',
    '--buffer_compress_percentage=60',
    '--buffer_compress_chunk=512',
    ...VERIFY,
  ]);
  const kinds: Record<string, string[]> = {
    'plain.qcow2': [],
    'zlib.qcow2': ['-c'],
    'zstd.qcow2': ['-c', '-o', 'compression_type=zstd'],
  };
  for (const [name, options] of Object.entries(kinds)) {
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...options, raw, join(folder, name)]);
  }
  for (const name of ['written.raw', ...Object.keys(kinds)]) {
    await t.test(name, async t => {
      const disk = join(await mount(t, join(folder, name)), 'disk');
      const common = [...VERIFY, '--readonly', `--filename=${disk}`];
      // In fio's command line an option before the first --name is global.
      const alone = await attempt('fio', [...common, ...READERS[0]!]);
      t.equal(alone.code, 0, `one reader: ${alone.stderr}${alone.code ? alone.stdout : ''}`);
      const four = await attempt('fio', [...common, ...READERS.flat()]);
      t.equal(four.code, 0, `four readers: ${four.stderr}${four.code ? four.stdout : ''}`);
    });
  }
});
