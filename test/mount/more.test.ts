/**
 * What a folder holds besides is asked when somebody looks for it, once, and then is as all else: listed, found, also below a
 * name that was resolved; and a text may take its time.
 */
import { join } from 'node:path';
import t from 'tap';
import type { MountDriver, Mounted } from '../../src/mount/driver.js';
import { fuseNative } from '../../src/mount/fuse-native.js';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import type { Directory, DiskFile, Tree } from '../../src/mount/tree.js';
import { loadAddon } from '../../src/native.js';
import { cannotMount, run, text, Workshop } from './fixture.js';

const WHEN = new Date('2026-11-21T10:15:00Z');
const drivers: readonly MountDriver[] = [nativeFuse, fuseNative];

for (const driver of drivers) {
  const why = cannotMount(driver.unavailable());
  t.test(driver.name, { skip: why || false }, async t => {
    const workshop = new Workshop();
    let mounted: Mounted | undefined;
    t.teardown(async () => {
      await mounted?.unmount({ lazy: true });
      await mounted?.ended;
      workshop.close();
    });
    const { disk, bytes, oracle } = workshop.disk([
      ['data', 100_000],
      ['zero', 65536],
      ['data', 200_000],
      ['bad', 4096],
      ['data', 50_000],
    ]);
    const part = (name: string, start: number, size: number): DiskFile => ({
      kind: 'disk',
      name,
      modified: WHEN,
      disk: { size, native: loadAddon().openWindow(disk.native, start, size), of: disk },
    });
    const parts = [part('p1', 512, 150_016), part('p2', 300_032, 100_352)];
    const asked: string[] = [];
    const folder = (name: string): Directory => ({
      kind: 'directory',
      name,
      modified: WHEN,
      entries: [
        { kind: 'disk', name: 'disk', modified: WHEN, disk },
        { kind: 'text', name: 'late', modified: WHEN, text: async () => `late of ${name}\n` },
        {
          kind: 'text',
          name: 'never',
          modified: WHEN,
          text: () => Promise.reject(new Error('for the test')),
        },
      ],
      more: async () => {
        asked.push(name);
        await new Promise(done => setImmediate(done));
        return parts;
      },
    });
    const folders = ['a', 'b', 'c'].map(folder);
    const tree: Tree = {
      kind: 'directory',
      name: '',
      modified: WHEN,
      entries: folders,
      find: name => (name === '@c' ? folders[2] : undefined),
    };
    const mountPoint = workshop.directory();
    mounted = await driver.mount(tree, { mountPoint, source: 'more', allowOther: false });
    const at = (...names: string[]) => join(mountPoint, ...names);

    t.equal(text(await run('cat', at('a', 'late'))), 'late of a');
    t.not((await run('cat', at('a', 'never'))).status, 0, 'a text that fails is an error');
    t.equal((await run('cmp', '-n', '1000', at('a', 'disk'), oracle)).status, 0);
    t.same(asked, [], 'nobody has looked');

    const size = text(await run('stat', '-c', '%s', at('a', 'p2'))).trim();
    t.equal(size, '100352');
    t.same(asked, ['a'], 'a name that is not there is looked for');
    t.equal(text(await run('ls', at('b'))), 'disk\nlate\nnever\np1\np2');
    t.same(asked, ['a', 'b'], 'so is it by whoever lists');
    await Promise.all([run('ls', at('a')), run('ls', at('a', 'p7')), run('cat', at('b', 'p1'))]);
    t.same(new Set(asked), new Set(['a', 'b']));

    const resolved = await run('cat', at('@c', 'p1'));
    t.ok(resolved.stdout.equals(bytes.subarray(512, 512 + 150_016)), 'below a name that was resolved');
    t.equal(asked.at(-1), 'c');

    const tail = await run('dd', `if=${at('a', 'p1')}`, 'bs=64K', 'skip=2', 'status=none');
    t.ok(tail.stdout.equals(bytes.subarray(512 + 2 * 65536, 512 + 150_016)), 'it ends where it ends');
    const damaged = await run(
      'dd',
      `if=${at('a', 'p2')}`,
      'bs=512',
      'skip=128',
      'count=1',
      'iflag=direct',
      'status=none',
    );
    t.not(damaged.status, 0, 'what cannot be vouched for is an error here too');
    const after = await run(
      'dd',
      `if=${at('a', 'p2')}`,
      'bs=512',
      'skip=150',
      'count=1',
      'iflag=direct',
      'status=none',
    );
    t.ok(
      after.stdout.equals(bytes.subarray(300_032 + 150 * 512, 300_032 + 151 * 512)),
      'and nothing else is',
    );
    t.ok(disk.defects().length > 0, 'the defects are those of the disk');
  });
}
