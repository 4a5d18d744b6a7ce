/** Segments of E01: their names, hundreds of them, those that are no segments; and what else no tool writes in a moment. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { openChain } from '../../src/image/chain.js';
import { segmentName } from '../../src/image/ewf-segment.js';
import { points } from '../../src/image/points.js';
import {
  behind,
  checked,
  DONE,
  group,
  NEXT,
  packed,
  plain,
  table,
  volume,
  writeSegment,
} from '../fixtures/ewf.js';
import { folder, noise } from './peer.js';
import { readAll } from './reader.js';

const CHUNK = 8192;

/** Writes an image of `count` segments with two chunks each, one packed; its bytes. */
function write(dir: string, count: number, stem = 'image'): Buffer {
  const bytes = Buffer.concat([...Array(count).keys()].flatMap(i => chunks(i)));
  for (let i = 0; i < count; i++) {
    const head = [volume(count * 2, 16, count * 32)];
    const [a, b] = chunks(i) as [Buffer, Buffer];
    const body = group(behind(head), [
      { bytes: packed(a), packed: true },
      { bytes: plain(b), packed: false },
    ]);
    // Behind the first, the same content is called data.
    const sections = i === 0 ? head : [{ ...head[0]!, type: 'data' }];
    const path = join(dir, segmentName(`${stem}.E01`, i + 1)!);
    writeSegment(path, i + 1, [...sections, ...body, i + 1 < count ? NEXT : DONE]);
  }
  return bytes;
}

const chunks = (i: number) => [noise((i % 250) + 1, CHUNK), Buffer.alloc(CHUNK, `chunk ${i} `)];

function read(t: Test, path: string) {
  const chain = openChain(path);
  t.teardown(() => chain.close());
  return { image: chain.members[0]!, ...readAll(points(chain)[0]!.open()) };
}

t.test('names', async t => {
  const name = (number: number) => segmentName('x.E01', number);
  t.same([1, 9, 99, 100, 101, 125, 126].map(name), [
    'x.E01',
    'x.E09',
    'x.E99',
    'x.EAA',
    'x.EAB',
    'x.EAZ',
    'x.EBA',
  ]);
  t.same([775, 776, 14971, 14972].map(name), ['x.EZZ', 'x.FAA', 'x.ZZZ', undefined]);
  t.equal(segmentName('a.b.s01', 100), 'a.b.saa');
  t.equal(segmentName('image.dd', 2), undefined);
});

t.test('two hundred segments, with few descriptors', async t => {
  const dir = folder(t);
  const bytes = write(dir, 200);
  const { image, bad, bytes: got } = read(t, join(dir, 'image.E01'));
  t.same(bad, []);
  t.equal(image.features[0], 'segments=200');
  t.ok(got.equals(bytes));
  const main = new URL('../../../bin/asof', import.meta.url).pathname;
  const script = `ulimit -n 512 && exec "$0" "$1" read "$2" --length ${bytes.length}`;
  const { stdout, stderr } = spawnSync('sh', ['-c', script, process.execPath, main, join(dir, 'image.E01')], {
    maxBuffer: 2 ** 25,
  });
  const sum = (all: Buffer) => createHash('sha256').update(all).digest('hex');
  t.equal(sum(stdout), sum(bytes), stderr.toString());
});

t.test('gaps', async t => {
  const dir = folder(t);
  const bytes = write(dir, 130);
  const name = (number: number) => join(dir, segmentName('image.E01', number)!);
  rmSync(name(50));
  rmSync(name(51));
  const one = read(t, name(1));
  t.same(one.bad, [{ offset: 49 * 2 * CHUNK, length: 4 * CHUNK }]);
  t.ok(
    one.bytes.subarray(51 * 2 * CHUNK).equals(bytes.subarray(51 * 2 * CHUNK)),
    'what follows is counted from the end',
  );
  t.match(one.image.troubles, [/4 of 260 chunks are lost: the segment image.E50 is missing/]);

  rmSync(name(101));
  t.same(
    read(t, name(1)).bad,
    [{ offset: 49 * 2 * CHUNK, length: 52 * 2 * CHUNK }],
    'between two gaps none is known',
  );
  rmSync(name(130));
  t.same(
    read(t, name(1)).bad,
    [{ offset: 49 * 2 * CHUNK, length: 81 * 2 * CHUNK }],
    'nor behind, without an end',
  );
});

t.test('files that are not what their names say', async t => {
  const dir = folder(t);
  const other = folder(t);
  const bytes = write(dir, 4);
  write(other, 6);
  const lost = [{ offset: 2 * CHUNK, length: 2 * CHUNK }];
  const second = join(dir, 'image.E02');
  const first = join(dir, 'image.E01');

  copyFileSync(join(other, 'image.E02'), second);
  const foreign = read(t, first);
  t.same(foreign.bad, lost, 'of another image');
  t.match(foreign.reasons, new Set([/a segment of another image/]));

  writeFileSync(second, noise(9, 5000));
  t.same(read(t, first).bad, lost, 'no segment at all');
  rmSync(second);
  symlinkSync('image.E03', second);
  t.same(read(t, first).bad, lost, 'the third once more');
  rmSync(second);
  symlinkSync(join(other, 'image.E02'), second);
  t.same(read(t, first).bad, lost, 'a link out of the folder');
  rmSync(second);
  write(dir, 4);
  renameSync(join(dir, 'image.E03'), join(dir, 'x'));
  renameSync(second, join(dir, 'image.E03'));
  renameSync(join(dir, 'x'), second);
  const swapped = read(t, first);
  t.same(swapped.bad, []);
  t.ok(swapped.bytes.equals(bytes), 'swapped names are no harm');
  t.throws(() => openChain(second), { code: 'IMAGE_CORRUPT', message: /is segment 3/ });
});

// A segment of another acquiry with the same geometry and no identity of its own shifts what lies behind it.
t.test('segments that name more or fewer chunks than the disk has', async t => {
  const dir = folder(t);
  const bytes = write(dir, 4);
  const head = [{ ...volume(8, 16, 128), type: 'data' }];
  const one = group(behind(head), [{ bytes: packed(chunks(1)[0]!), packed: true }]);
  writeSegment(join(dir, 'image.E02'), 2, [...head, ...one, NEXT]);
  const { bad, bytes: got, reasons } = read(t, join(dir, 'image.E01'));
  t.same(bad, [{ offset: 2 * CHUNK, length: 6 * CHUNK }]);
  t.match(reasons, new Set([/name 7 chunks, where the disk has 8/]));
  t.ok(got.subarray(0, 2 * CHUNK).equals(bytes.subarray(0, 2 * CHUNK)));
});

// EnCase 6.7.1 went on with all 32 bits of an entry as the offset, of plain chunks, when 31 were no longer enough.
t.test('entries beyond 2 GiB, and a base', async t => {
  const dir = folder(t);
  const path = join(dir, 'image.E01');
  const all = [1, 2, 3].map(seed => noise(seed, CHUNK));
  const places = [2 ** 20, 2 ** 31 - 2 ** 16, 2 ** 31 + 2 ** 16];
  for (const base of [0, 89]) {
    const head = [volume(3, 16, 48)];
    const start = behind(head);
    const sectors = { type: 'sectors', data: Buffer.alloc(0), length: 2 ** 31 + 2 ** 20 };
    const entries = places.map(place => place - base);
    writeSegment(path, 1, [
      ...head,
      sectors,
      table('table', entries, base),
      table('table2', entries, base),
      DONE,
    ]);
    t.ok(start < places[0]!);
    const fd = openSync(path, 'r+');
    for (const [i, chunk] of all.entries()) writeSync(fd, plain(chunk), 0, CHUNK + 4, places[i]!);
    closeSync(fd);
    const { bad, bytes } = read(t, path);
    t.same(bad, []);
    t.ok(bytes.equals(Buffer.concat(all)), `base ${base}`);
    rmSync(path);
  }
});

t.test('what cannot be read as a disk', async t => {
  const dir = folder(t);
  const path = join(dir, 'image.E01');
  const refused = (head: ReturnType<typeof volume>, code: string, message: RegExp) => {
    const chunk = group(behind([head]), [{ bytes: packed(Buffer.alloc(CHUNK)), packed: true }]);
    writeSegment(path, 1, [head, ...chunk, DONE]);
    t.throws(() => openChain(path), { code, message });
  };
  refused(volume(1, 0, 16), 'IMAGE_CORRUPT', /no sectors/);
  refused(volume(1, 16, 16, 513), 'IMAGE_CORRUPT', /513/);
  refused(volume(1, 2 ** 30, 16), 'IMAGE_UNSUPPORTED', /larger/);
  refused(volume(1, 16, Number(2n ** 62n)), 'IMAGE_CORRUPT', /2\^53/);
  const logical = volume(0, 64, 0);
  const data = Buffer.from(logical.data.subarray(0, 1048));
  data[0] = 14;
  refused({ type: 'volume', data: checked(data) }, 'IMAGE_UNSUPPORTED', /logical/);
  writeFileSync(
    path,
    Buffer.concat([Buffer.from('LVF\t\r\n\xff\0\x01\x01\0\0\0', 'latin1'), Buffer.alloc(99)]),
  );
  t.throws(() => openChain(path), { message: /EWF|L01/ });
  renameSync(path, join(dir, 'files.L01'));
  t.throws(() => openChain(join(dir, 'files.L01')), {
    code: 'IMAGE_UNSUPPORTED',
    message: /logical evidence/,
  });
});

// A table claims half a gigabyte of entries, sections lead in circles: bounded, in words.
t.test('claims beyond reason', async t => {
  const dir = folder(t);
  const path = join(dir, 'image.E01');
  const huge = table('table', []);
  huge.data.writeUInt32LE(2 ** 32 - 1, 0);
  writeSegment(path, 1, [volume(2 ** 32 - 1, 64, 2 ** 38), huge, DONE]);
  t.throws(() => openChain(path), { code: 'IMAGE_CORRUPT' });
  const whole = Buffer.alloc(20);
  whole.writeUInt32LE(2 ** 29, 0);
  const sparse = { type: 'table', data: checked(whole), length: 2 ** 31 + 28 };
  writeSegment(path, 1, [volume(2 ** 29, 64, 2 ** 35), sparse, DONE]);
  const chain = openChain(path);
  t.teardown(() => chain.close());
  const [run, ...more] = points(chain)[0]!
    .open()
    .extents(0, 2 ** 44);
  t.match(run, { kind: 'bad', length: 2 ** 44, why: /entries/ });
  t.same(more, []);
});
