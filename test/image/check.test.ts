/**
 * The doctor counts what `qemu-img check` counts, on sound images and on images damaged in known ways.
 */
import { closeSync, copyFileSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { check, checkPacked } from '../../src/image/check.js';
import type { Finding } from '../../src/image/finding.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { folder, noise, qemuCheck, qemuImg, qemuIo } from './peer.js';

const dir = folder(t);

/** Sound images, each with a bit of everything that its kind can have. */
const KINDS: Record<string, { options: string; commands: string[]; after?: string[][] }> = {
  plain: { options: 'compat=1.1', commands: ['write -P 1 0 300k', 'write -P 2 3M 200k'] },
  old: { options: 'compat=0.10,cluster_size=4k', commands: ['write -P 1 0 300k', 'write -P 2 3M 200k'] },
  tiny: {
    options: 'cluster_size=512,refcount_bits=1',
    commands: ['write -P 1 0 300k', 'write -c -P 2 3M 512'],
  },
  wide: { options: 'cluster_size=1k,refcount_bits=64', commands: ['write -P 1 0 300k', 'write -z 3M 4k'] },
  narrow: {
    options: 'cluster_size=4k,refcount_bits=4',
    commands: ['write -P 1 0 300k', 'write -P 9 1M 64k'],
  },
  extended: {
    options: 'extended_l2=on,cluster_size=16k',
    commands: ['write -P 1 1k 300k', 'write -z 3M 512', 'write -c -P 3 2M 16k'],
  },
  packed: {
    options: 'compression_type=zstd',
    commands: ['write -c -P 1 0 64k', 'write -c -P 2 64k 64k', 'write -c -P 3 4M 64k', 'write -z 1M 128k'],
  },
  snapshots: {
    options: 'cluster_size=4k',
    commands: ['write -P 1 0 300k', 'write -c -P 2 2M 4k'],
    after: [['a'], ['write -P 4 100k 20k', 'write -P 4 3M 20k'], ['b'], ['write -P 5 104k 8k']],
  },
  bitmaps: { options: 'compat=1.1', commands: ['write -P 1 0 300k'] },
};

function make(name: string): string {
  const { options, commands, after = [] } = KINDS[name]!;
  const path = join(dir, `${name}.qcow2`);
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, path, '5245440');
  qemuIo(path, commands);
  for (const step of after) {
    if (step.length === 1 && step[0]!.length === 1) qemuImg('snapshot', '-c', step[0]!, path);
    else qemuIo(path, step);
  }
  if (name === 'bitmaps') {
    qemuImg('bitmap', '--add', path, 'one');
    qemuImg('bitmap', '--add', '-g', '64k', path, 'two');
    qemuIo(path, ['write -P 7 1M 100k']);
  }
  return path;
}

const sum = (found: Finding[], keep: (one: Finding) => boolean) =>
  found.filter(keep).reduce((total, { count }) => total + count, 0);

/** What we count of what the peer counts. */
function ours(path: string) {
  const chain = openChain(path, { format: 'qcow2' });
  try {
    const found = [...check(chain)];
    return {
      found,
      leaks: sum(found, one => one.severity === 'leak'),
      corruptions: sum(
        found,
        one => ['entry', 'reference', 'refcount', 'copied'].includes(one.kind) && one.severity === 'defect',
      ),
    };
  } finally {
    chain.close();
  }
}

function patch(path: string, at: number, bytes: Buffer): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function peek(path: string, at: number, length: number): Buffer {
  const fd = openSync(path, 'r');
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, at);
  closeSync(fd);
  return bytes;
}

const u64 = (path: string, at: number) => Number(peek(path, at, 8).readBigUInt64BE() & 0x00fffffffffffe00n);

function entry(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

for (const name of Object.keys(KINDS)) {
  t.test(`${name}: sound, then with its refcounts changed`, async t => {
    const path = make(name);
    const sound = ours(path);
    t.same(sound.found, [], 'nothing is found');
    const theirs = qemuCheck(path);
    t.equal(theirs['corruptions'] ?? 0, 0);
    t.equal(theirs['leaks'] ?? 0, 0);

    // Seeded noise into the first refcount block: lower, higher, zero.
    const block = u64(path, u64(path, 48));
    for (let seed = 1; seed <= 6; seed++) {
      const sick = join(dir, `${name}-${seed}.qcow2`);
      copyFileSync(path, sick);
      const random = noise(seed, 8);
      for (let i = 0; i < 3; i++) patch(sick, block + (random[i]! % 40), Buffer.from([random[i + 3]! % 4]));
      const [mine, peer] = [ours(sick), qemuCheck(sick)];
      t.equal(mine.leaks, peer['leaks'] ?? 0, `leaks of seed ${seed}`);
      t.equal(mine.corruptions, peer['corruptions'] ?? 0, `corruptions of seed ${seed}`);
    }
  });
}

t.test('entries of the tables', async t => {
  const path = make('snapshots');
  const l1 = u64(path, 40);
  const l2 = u64(path, l1);
  const cases: Record<string, (sick: string) => void> = {
    'flag of an unshared cluster cleared': sick => patch(sick, l2, entry(BigInt(u64(sick, l2)))),
    'flag of an unshared table cleared': sick => patch(sick, l1, entry(BigInt(u64(sick, l1)))),
    'two entries to one cluster': sick => patch(sick, l2 + 8, peek(sick, l2, 8)),
    'an entry behind the end': sick => patch(sick, l2 + 8, entry((1n << 63n) | (1n << 40n))),
    'an entry to the L1 table': sick => patch(sick, l2 + 8, entry((1n << 63n) | BigInt(l1))),
    'an entry lost': sick => patch(sick, l2 + 8, entry(0n)),
    'a table lost': sick => patch(sick, l1, entry(0n)),
    'reserved bits': sick =>
      patch(sick, l2 + 8, entry(peek(sick, l2 + 8, 8).readBigUInt64BE() | (1n << 57n))),
  };
  for (const [name, damage] of Object.entries(cases)) {
    const sick = join(dir, 'sick.qcow2');
    copyFileSync(path, sick);
    damage(sick);
    const [mine, peer] = [ours(sick), qemuCheck(sick)];
    t.equal(mine.leaks, peer['leaks'] ?? 0, `leaks: ${name}`);
    t.equal(mine.corruptions, peer['corruptions'] ?? 0, `corruptions: ${name}`);
  }
});

t.test('packed blocks are unpacked on demand', async t => {
  const path = make('packed');
  const l2 = u64(path, u64(path, 40));
  const place = Number(peek(path, l2, 8).readBigUInt64BE() & ((1n << 54n) - 1n));
  const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2 });
  t.teardown(() => engine.close());
  const deep = async () => {
    const chain = openChain(path);
    const disk = new Disk(engine, points(chain)[0]!.open());
    const found: Finding[] = [];
    for await (const one of checkPacked(disk.source, (offset, length) => disk.read(offset, length)))
      found.push(one);
    disk.close();
    chain.close();
    return found;
  };
  t.same(await deep(), []);
  patch(path, place + 4, Buffer.alloc(8, 0xff));
  t.match(await deep(), [{ severity: 'defect', kind: 'range', range: { offset: 0, length: 65536 } }]);
  t.same(ours(path).found, [], 'the metadata alone is sound');
});

t.test('the whole is only read', async t => {
  const path = make('packed');
  const before = readFileSync(path);
  ours(path);
  t.ok(before.equals(readFileSync(path)));
});
