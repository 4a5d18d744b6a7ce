/** What the composition adds: which point a text means, the tree of a mount, and that disks cost nothing unread. */
import { utimesSync, writeFileSync } from 'node:fs';
import t from 'tap';
import type { Directory } from '../src/mount/tree.js';
import { countAllocations, OpenedImage, treeOf } from '../src/service.js';
import { peer } from './cli/asof.js';

const folder = t.testdir();
const base = `${folder}/base.raw`;
const middle = `${folder}/middle.qcow2`;
const top = `${folder}/top.qcow2`;
writeFileSync(base, Buffer.alloc(1 << 20, 1));
await peer('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', 'base.raw', middle);
await peer('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'middle.qcow2', top);
await peer('qemu-io', '-c', 'write -z 0 128k', '-c', 'write -P 2 512k 64k', top);
const times = {
  base: '2026-11-20T08:00:00.250Z',
  middle: '2026-11-21T10:15:00.750Z',
  top: '2026-11-22T00:00:00Z',
};
utimesSync(base, new Date(times.base), new Date(times.base));
utimesSync(middle, new Date(times.middle), new Date(times.middle));
utimesSync(top, new Date(times.top), new Date(times.top));

/** What is asked for, and the point that is meant; '' where there is none. */
const MEANT: readonly (readonly [string, string])[] = [
  ['top.qcow2', 'top.qcow2'],
  ['2026-11-21T10-15-00Z', 'middle.qcow2'],
  ['@2026-11-21T10-15-00Z', 'middle.qcow2'],
  ['@2026-11-21T10:15:00Z', 'middle.qcow2'],
  ['@2026-11-21T11:15:00+01:00', 'middle.qcow2'],
  ['@2026-11-21T10:15:00', 'middle.qcow2'],
  ['@2026-11-21T10:15', 'middle.qcow2'],
  ['@2026-11-21T10:15:00.750Z', 'middle.qcow2'],
  ['@2026-11-21T10:15:00.749Z', 'base.raw'],
  ['@2026-11-21T10-14-59Z', 'base.raw'],
  ['@2026-11-21', 'middle.qcow2'],
  ['@2026-11-20', 'base.raw'],
  ['@2026-11-22', 'top.qcow2'],
  ['@2099-01-01', 'top.qcow2'],
  [`@${Date.parse('2026-11-21T10:15:00Z') / 1000}`, 'middle.qcow2'],
  [`@${Date.parse('2026-11-21T10:14:59Z') / 1000}`, 'base.raw'],
  ['@2026-11-19', ''],
  ['@0', ''],
  ['@', ''],
  ['@tomorrow', ''],
  ['@2026-13-01', ''],
  ['nothing', ''],
];

t.test('which point is meant, on the command line and in a mount', async t => {
  const image = new OpenedImage(top);
  t.teardown(() => image.close());
  t.equal(image.point(undefined).id, 'top.qcow2');
  const tree = treeOf(image);
  for (const [text, id] of MEANT) {
    if (id) t.equal(image.point(text).id, id, text);
    else t.throws(() => image.point(text), { code: 'POINT_UNKNOWN' }, text);
    if (!text.startsWith('@')) continue;
    const found = tree.find!(text) as Directory | undefined;
    t.equal(found?.name, id ? image.point(text).moment : undefined, `${text} in a mount`);
    if (found) t.ok(tree.entries.includes(found), 'an entry of the tree, not a copy');
  }
  t.equal(tree.find!('disk2'), undefined);
});

t.test('allocation is counted for every point', async t => {
  const image = new OpenedImage(top);
  t.teardown(() => image.close());
  await countAllocations(image);
  t.same(
    image.points.map(point => image.disk(point).allocated),
    [(1 << 20) - (128 << 10), 1 << 20, 1 << 20],
  );
});

t.test('close may be called twice, and before any disk is asked for', async t => {
  const image = new OpenedImage(top);
  image.close();
  image.close();
  const used = new OpenedImage(top);
  t.equal((await used.disk(used.newest).read(512 << 10, 1))[0], 2);
  used.close();
  used.close();
});

t.test('a disk that nobody reads asks for no map', async t => {
  const many = `${folder}/many.qcow2`;
  await peer('qemu-img', 'create', '-q', '-f', 'qcow2', many, '64G');
  // One process takes them all: a start of qemu-img each would be most of the test.
  await peer('bash', '-c', `for i in $(seq 60); do qemu-img snapshot -c s$i '${many}'; done`);
  const image = new OpenedImage(many);
  t.teardown(() => image.close());
  const asked: string[] = [];
  for (const point of image.points) {
    const { source } = image.disk(point);
    const { extents } = source;
    Object.assign(source, {
      extents: (...range: [number, number]) => {
        asked.push(point.id);
        return extents(...range);
      },
    });
  }
  t.equal(treeOf(image).entries.filter(({ kind }) => kind === 'directory').length, 61);
  t.same(asked, []);
  await image.disk(image.point('s7')).read(0, 512);
  t.same(asked, ['many.qcow2#7']);
});
