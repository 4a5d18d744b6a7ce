/**
 * Every kind of point is a block source: the suite of all sources, on images that the peer made.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openChain } from '../../src/image/chain.js';
import { findPoint, points } from '../../src/image/points.js';
import { conformance, type Span } from '../block/conformance.js';
import { aff4 } from '../fixtures/aff4.js';
import { dmg } from '../fixtures/dmg.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { subjects } from './subjects.js';

const dir = folder(t);
const pattern = join(dir, 'pattern');
writeFileSync(pattern, noise(1, 65536));

function source(path: string, point?: string) {
  const chain = openChain(path);
  t.teardown(() => chain.close());
  const all = points(chain);
  return () => (point === undefined ? all[0]! : findPoint(all, point)).open();
}

t.test('raw, whole and in segments', async t => {
  const bytes = noise(7, 300_077);
  writeFileSync(join(dir, 'disk.raw'), bytes);
  await conformance(t, 'raw', source(join(dir, 'disk.raw')), bytes);
  for (let i = 0; i < 3; i++)
    writeFileSync(join(dir, `part.00${i}`), bytes.subarray(i * 100_032, (i + 1) * 100_032));
  await conformance(t, 'split-raw', source(join(dir, 'part.000')), bytes.subarray(0, 300_077));
});

t.test('a qcow2 chain and its snapshots', async t => {
  const base = join(dir, 'base.qcow2');
  const top = join(dir, 'top.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k,compression_type=zstd', base, '402432');
  qemuIo(base, ['write -c -P 1 200k 4k', 'write -c -P 2 204k 4k', `write -s ${pattern} 0 100k`]);
  const options = 'cluster_size=16k,extended_l2=on,backing_fmt=qcow2,backing_file=base.qcow2';
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, top, '500224');
  qemuIo(top, ['write -c -P 3 160k 16k', `write -s ${pattern} 10k 3k`, 'write -z 50k 7k']);
  const before = convert(top);
  qemuImg('snapshot', '-c', 'before', top);
  qemuIo(top, [`write -s ${pattern} 202k 20k`, 'write -P 5 499712 512']);
  await conformance(t, 'current', source(top), convert(top));
  await conformance(t, 'snapshot', source(top, 'before'), before);
});

t.test('blocks', async t => {
  for (const { name, path, bytes, content } of subjects(dir)) {
    writeFileSync(path, bytes);
    await conformance(t, name, source(path), content);
  }
});

t.test('chunks of a DMG', async t => {
  const bytes = noise(8, 100 * 512);
  bytes.fill(0, 60 * 512, 90 * 512);
  const chunks = [
    [33, 'zlib'],
    [27, 'raw'],
    [30, 'zero'],
    [10, 'adc'],
  ] as const;
  const path = join(dir, 'disk.dmg');
  writeFileSync(path, dmg({ content: bytes, parts: [{ name: 'whole', chunks }] }).bytes);
  await conformance(t, 'dmg', source(path), bytes);
});

t.test('runs of an AFF4 image', async t => {
  const bytes = noise(8, 100 * 512);
  bytes.fill(0, 60 * 512, 90 * 512);
  const runs = [
    [33 * 512, 0],
    [27 * 512 + 100, 0],
    [30 * 512 - 100, 'Zero'],
    [10 * 512, 0],
  ] as const;
  const path = join(dir, 'disk.aff4');
  writeFileSync(path, aff4({ content: bytes, runs, method: 'snappy' })[0]!.bytes);
  await conformance(t, 'aff4', source(path), bytes);
});

t.test('a truncated image', async t => {
  const path = join(dir, 'short.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', path, '300k');
  qemuIo(path, [`write -s ${pattern} 0 64k`, `write -s ${pattern} 128k 64k`, 'write -z 64k 8k']);
  const bytes = convert(path);
  const map = JSON.parse(qemuImg('map', '--output=json', path)) as {
    start: number;
    length: number;
    offset?: number;
  }[];
  const cut = readFileSync(path).length - 20 * 1024;
  truncateSync(path, cut);
  const damaged: Span[] = map.flatMap(({ start, length, offset }) =>
    offset !== undefined && offset + length > cut
      ? [{ start: start + Math.max(0, cut - offset), end: start + length }]
      : [],
  );
  t.ok(damaged.length > 0);
  await conformance(t, 'short', source(path), bytes, damaged);
});
