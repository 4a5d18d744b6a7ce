/**
 * Sectors that cannot be read: without leave the backup fails and names the first; with it they are zeros in the image,
 * listed for ddrescue's tools, errors in what we show, and gone again once they can be read.
 */
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { History } from '../../src/image/history.js';
import { points } from '../../src/image/points.js';
import { missing, run } from '../peers.js';
import { Lab, newEngine, readPoint, scratch, verifyAll } from './history-lab.js';
import { convert, noise } from './peer.js';
import { readAll } from './reader.js';

const SIZE = 5 * 65536 + 512;
const BAD = [
  [1024, 512],
  [65536 + 4096, 1536],
  [SIZE - 512, 512],
] as const;

async function badLab(t: Parameters<typeof scratch>[0], options = {}) {
  const lab = new Lab(scratch(t), noise(21, SIZE));
  lab.bad = BAD;
  return { lab, point: await lab.backup({ ignoreReadErrors: true, ...options }) };
}

t.test('off: it fails, and names the sector', async t => {
  const lab = new Lab(scratch(t), noise(20, SIZE));
  lab.bad = BAD;
  await t.rejects(lab.backup(), { code: 'DAMAGED', message: /sector 2 .*byte 1024/ });
  const history = new History(lab.history);
  t.same(history.points, []);
});

t.test('on: listed, counted, and errors when they are read', async t => {
  const { lab, point } = await badLab(t);
  t.same(point.manifest.bad.runs, BAD);
  t.equal(point.manifest.sha256, null, 'of bytes that nobody knows there is no digest');
  const history = new History(lab.history);
  t.teardown(() => history.close());
  const engine = newEngine();
  const disk = new Disk(engine, history.source(history.points[0]!));
  t.teardown(() => {
    disk.close();
    engine.close();
  });
  for (let at = 0; at < SIZE; at += 512) {
    const bad = BAD.some(([offset, length]) => at >= offset && at < offset + length);
    if (bad) await t.rejects(disk.read(at, 512), { code: 'DAMAGED' }, `sector at ${at}`);
    else if (!(await disk.read(at, 512)).equals(lab.bytes.subarray(at, at + 512))) t.fail(`sector at ${at}`);
  }
  for (const { sound } of await verifyAll(lab.history, true)) t.ok(sound, 'what is stored is what was read');
  const chain = openChain(join(lab.history, point.manifest.image.file));
  t.teardown(() => chain.close());
  const alone = readAll(points(chain)[0]!.open());
  t.same(
    alone.bad.map(({ offset, length }) => [offset, length]),
    BAD,
    'and errors where the image is opened by itself',
  );
});

t.test('the map is one of ddrescue', { skip: missing(['ddrescuelog', 'qemu-img']) }, async t => {
  const { lab, point } = await badLab(t);
  const map = join(lab.history, point.manifest.bad.file!);
  const listed = (await run('ddrescuelog', ['--list-blocks=-', '--block-size=512', map]))
    .trim()
    .split('\n')
    .map(Number);
  const expected = BAD.flatMap(([offset, length]) =>
    Array.from({ length: length / 512 }, (_, i) => offset / 512 + i),
  );
  t.same(listed, expected);
  const filled = Buffer.from(lab.bytes);
  for (const [offset, length] of BAD) filled.fill(0, offset, offset + length);
  t.ok(
    convert(join(lab.history, point.manifest.image.file)).equals(filled),
    'zeros for who reads the image alone',
  );
});

t.test('carried on while they stay, read again each time, healed when they can be', async t => {
  const { lab } = await badLab(t);
  const again = await lab.backup({ ignoreReadErrors: true });
  t.equal(again.manifest.method, 'tracked');
  t.same(again.manifest.bad.runs, BAD);
  lab.bad = BAD.slice(1);
  t.same((await lab.backup({ ignoreReadErrors: true })).manifest.bad.runs, BAD.slice(1));
  lab.bad = [];
  const whole = await lab.backup({ method: 'compared' });
  t.same(whole.manifest.bad.runs, []);
  const history = new History(lab.history);
  t.teardown(() => history.close());
  t.ok((await readPoint(history, history.points.at(-1)!)).equals(lab.bytes));
});
