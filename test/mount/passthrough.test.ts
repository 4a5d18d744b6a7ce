/**
 * A disk that is one whole plain file is read by the kernel itself; one that is not, in the same mount, is served; and
 * both say the same.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { ImageFile } from '../../src/block/file.js';
import { type BlockSource, checkRange } from '../../src/block/source.js';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { cannotMount, run, Workshop } from './fixture.js';

const why = cannotMount(nativeFuse.unavailable());
if (why) {
  t.plan(0, why);
  process.exit(0);
}

const workshop = new Workshop();
t.teardown(() => workshop.close());
const path = join(workshop.folder, 'raw');
const bytes = randomBytes(3 * 2 ** 20 + 512);
writeFileSync(path, bytes);

function plain(file: ImageFile): BlockSource {
  return {
    size: file.size,
    sectorSize: 512,
    *extents(offset, length) {
      checkRange(file.size, offset, length);
      if (length > 0) yield { kind: 'data', length, file, offset };
    },
    close: () => file.close(),
  };
}

const disk = new Disk(workshop.engine, plain(ImageFile.open(path)));
disk.native.setAllocated(bytes.length);
const served = workshop.disk([
  ['data', 1_000_000],
  ['zero', 1000],
]);
const dir = workshop.directory();
const modified = new Date();
const mounted = await nativeFuse.mount(
  {
    kind: 'directory',
    name: '',
    modified,
    entries: [
      { kind: 'disk', name: 'raw', modified, disk },
      { kind: 'disk', name: 'served', modified, disk: served.disk },
    ],
  },
  { mountPoint: dir, source: path, allowOther: false },
);
t.teardown(async () => {
  await mounted.unmount({ lazy: true });
  await mounted.ended;
  disk.close();
});

t.comment(JSON.stringify(mounted.facts));
await t.test('who reads', async t => {
  for (let i = 0; i < 3; i++) {
    const answers = await Promise.all([
      run('cmp', join(dir, 'raw'), path),
      run('cmp', join(dir, 'raw'), path),
      run('cmp', join(dir, 'served'), served.oracle),
    ]);
    t.same(
      answers.map(answer => answer.status),
      [0, 0, 0],
      'equal bytes',
    );
  }
  const direct = await run('dd', `if=${join(dir, 'raw')}`, 'bs=64k', 'iflag=direct');
  t.ok(direct.stdout.equals(bytes), 'O_DIRECT');

  // What the kernel reads from the file by itself is seen at once; what a server had put into the page cache is not.
  // That tells the two apart. The file is ours to change: this is about who reads, not about evidence.
  const changed = Buffer.from(bytes).fill(0x5a, 0, 4096);
  writeFileSync(path, changed);
  const now = await run('head', '-c', '4096', join(dir, 'raw'));
  t.equal(
    now.stdout.equals(changed.subarray(0, 4096)),
    mounted.facts.passthrough,
    'passed through, as the facts say',
  );
});
