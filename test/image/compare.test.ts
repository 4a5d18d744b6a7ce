/**
 * Two points are compared by bytes, sector by sector, without reading what they share.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { compare, type Difference } from '../../src/image/compare.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';

const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2 });
t.teardown(() => engine.close());

/** Differences of two byte arrays by the sector, joined: the oracle. */
function byBytes(a: Buffer, b: Buffer): Difference[] {
  const found: Difference[] = [];
  const both = Math.min(a.length, b.length);
  for (let offset = 0; offset < both; offset += 512) {
    const length = Math.min(512, both - offset);
    if (a.compare(b, offset, offset + length, offset, offset + length) === 0) continue;
    const last = found.at(-1);
    if (last && last.offset + last.length === offset)
      found[found.length - 1] = { ...last, length: last.length + length };
    else found.push({ kind: 'different', offset, length });
  }
  const rest = Math.max(a.length, b.length) - both;
  if (rest > 0) found.push({ kind: a.length > both ? 'only-a' : 'only-b', offset: both, length: rest });
  return found;
}

async function ours(path: string, a: number, b: number): Promise<{ found: Difference[]; read: number }> {
  const chain = openChain(path);
  let read = 0;
  const [left, right] = [a, b].map(i => {
    const disk = new Disk(engine, points(chain)[i]!.open());
    return {
      source: disk.source,
      read(offset: number, length: number) {
        read += length;
        return disk.read(offset, length);
      },
      close: () => disk.close(),
    };
  });
  const found: Difference[] = [];
  for await (const one of compare(left!, right!)) found.push(one);
  left!.close();
  right!.close();
  chain.close();
  return { found, read };
}

t.test('points of a chain, of two sizes, plain and packed', async t => {
  const dir = folder(t);
  const pattern = join(dir, 'pattern');
  writeFileSync(pattern, noise(1, 65536));
  const base = join(dir, 'base.qcow2');
  const top = join(dir, 'top.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', base, String(3 * 2 ** 20 + 1536));
  qemuIo(base, [`write -s ${pattern} 0 1M`, 'write -c -P 7 2M 64k', 'write -c -P 8 2112k 64k']);
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', base, '-F', 'qcow2', top, '5M');
  qemuIo(top, [
    'write -P 3 100k 512',
    'write -P 7 2M 4k',
    'write -P 9 2112k 1k',
    'write -P 0 2500k 8k',
    'write -z 512k 64k',
    'write -P 1 4M 4k',
    'write -P 1 3147264 512',
  ]);
  const { found, read } = await ours(top, 0, 1);
  t.same(found, byBytes(convert(top), convert(base)));
  t.ok(found.length >= 4);
  t.ok(read < 2 ** 20, 'what is shared is not read');
  const turned = await ours(top, 1, 0);
  t.same(turned.found, byBytes(convert(base), convert(top)));
  t.same(await ours(top, 0, 0), { found: [], read: 0 });
});

t.test('what cannot be read is told, and the rest compared', async t => {
  const dir = folder(t);
  const base = join(dir, 'base.qcow2');
  const top = join(dir, 'top.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', base, '2M');
  qemuIo(base, ['write -P 1 0 2M']);
  qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top);
  qemuIo(top, ['write -P 2 0 64k', 'write -P 2 1M 64k']);
  truncateSync(top, readFileSync(top).length - 32768);
  const { found } = await ours(top, 0, 1);
  t.match(found, [
    { kind: 'different', offset: 0, length: 65536 },
    { kind: 'different', offset: 2 ** 20, length: 32768 },
    { kind: 'unreadable', offset: 2 ** 20 + 32768, length: 32768, why: /beyond the end/ },
  ]);
  t.equal(found.length, 3);
});
