/**
 * What a qcow2 image maps: bases of another size, snapshots, truncation, hostile tables, and what is refused.
 */
import {
  closeSync,
  copyFileSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type Extent, joined } from '../../src/block/extent.js';
import { AsofError, type ErrorCode } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { type Run, readAll } from './reader.js';

type Test = Pick<typeof t, 'same' | 'equal' | 'match' | 'fail' | 'ok'>;

const CLUSTER = 65536;

function patch(path: string, at: number, ...words: bigint[]): void {
  const bytes = Buffer.alloc(words.length * 8);
  for (const [i, word] of words.entries()) bytes.writeBigUInt64BE(word, i * 8);
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function refuses(t: Test, path: string, code: ErrorCode, words: RegExp): void {
  try {
    openChain(path).close();
    t.fail('it opens');
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    t.equal(error.code, code, error.message);
    t.match(error.message, words);
  }
}

function runsOf(path: string): Extent[] {
  const chain = openChain(path);
  try {
    const source = points(chain)[0]!.open();
    return [...joined(source.extents(0, source.size))];
  } finally {
    chain.close();
  }
}

t.test('a base that is smaller, or larger, and one below it that is larger again', async t => {
  const dir = folder(t);
  const pattern = join(dir, 'pattern');
  writeFileSync(pattern, noise(1, 65536));
  const sizes = [1_500_000 - (1_500_000 % 512), 700_416, 2_098_688];
  sizes.forEach((size, i) => {
    const path = join(dir, `${i}.qcow2`);
    const base = i > 0 ? ['-b', `${i - 1}.qcow2`, '-F', 'qcow2'] : [];
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', ...base, path, String(size));
    qemuIo(path, [`write -s ${pattern} ${i * 8192} ${i === 0 ? size : 70_000 - (70_000 % 512)}`]);
    const chain = openChain(path);
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    t.same(bad, []);
    t.ok(bytes.equals(convert(path)), `${path} is the peer's`);
    chain.close();
  });
});

t.test('snapshots are points, each with its own size, over a base', async t => {
  const dir = folder(t);
  const pattern = join(dir, 'pattern');
  writeFileSync(pattern, noise(1, 65536));
  const base = join(dir, 'base.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', base, '1M');
  qemuIo(base, [`write -s ${pattern} 0 1M`]);
  const path = join(dir, 'top.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', base, '-F', 'qcow2', path, '2M');
  const wanted = new Map<string, Buffer>();
  const steps = [['write -P 1 0 20k'], ['write -P 2 8k 40k', 'write -z 900k 8k'], ['write -P 3 1900k 30k']];
  for (const [i, step] of steps.entries()) {
    qemuIo(path, step);
    // What the peer reads at this moment, before it becomes a snapshot.
    wanted.set(`tag ${i}`, convert(path));
    qemuImg('snapshot', '-c', `tag ${i}`, path);
    if (i === 1) qemuImg('resize', '-q', path, '3M');
  }
  qemuIo(path, ['write -P 9 0 3M']);
  const chain = openChain(path);
  t.teardown(() => chain.close());
  const all = points(chain);
  t.same(
    all.map(({ kind, name }) => `${kind} ${name}`),
    ['image top.qcow2', 'snapshot tag 2', 'snapshot tag 1', 'snapshot tag 0', 'image base.qcow2'],
  );
  for (const point of all.filter(({ kind }) => kind === 'snapshot')) {
    const { bytes, bad } = readAll(point.open());
    t.same(bad, []);
    t.equal(point.size, wanted.get(point.name)!.length, `${point.name} has its own size`);
    t.ok(bytes.equals(wanted.get(point.name)!), `${point.name} has its own bytes`);
  }
});

t.test('a truncated image is bad exactly where its clusters are gone', async t => {
  const dir = folder(t);
  const path = join(dir, 'sound.qcow2');
  const size = 8 * 2 ** 20 + 1536;
  qemuImg('create', '-q', '-f', 'qcow2', path, String(size));
  const pattern = join(dir, 'pattern');
  writeFileSync(pattern, noise(1, 2 ** 20));
  // Written out of order, so that what is gone is scattered.
  qemuIo(
    path,
    [5, 2, 7, 0, 3, 8].map(at => `write -s ${pattern} ${at}M ${at === 8 ? 1536 : 300 * 1024}`),
  );
  const sound = convert(path);
  const map = JSON.parse(qemuImg('map', '--output=json', path)) as {
    start: number;
    length: number;
    data: boolean;
    offset?: number;
  }[];
  const whole = readFileSync(path).length;
  for (const cut of [
    whole - 1,
    whole - 512,
    whole - CLUSTER,
    whole - 5 * CLUSTER - 777,
    whole >> 1,
    6 * CLUSTER + 1,
  ]) {
    const short = join(dir, 'short.qcow2');
    copyFileSync(path, short);
    truncateSync(short, cut);
    const gone: Run[] = [];
    for (const run of map) {
      if (!run.data || run.offset === undefined) continue;
      const from = Math.max(run.offset, cut);
      const end = run.offset + run.length;
      if (from >= end) continue;
      const offset = run.start + (from - run.offset);
      const last = gone.at(-1);
      if (last && last.offset + last.length === offset) {
        gone[gone.length - 1] = { offset: last.offset, length: last.length + end - from };
      } else gone.push({ offset, length: end - from });
    }
    const chain = openChain(short);
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    t.same(bad, gone, `${cut} of ${whole} bytes: bad is what is gone`);
    for (const { offset, length } of gone) sound.copy(bytes, offset, offset, offset + length);
    t.ok(bytes.equals(sound), 'all else is right');
    const found = [...check(chain)].filter(({ kind }) => kind === 'range').map(({ range }) => range);
    t.same(found, gone, 'the doctor lists the same');
    chain.close();
  }
});

t.test('entries that break a rule are bad, alone', async t => {
  const dir = folder(t);
  const path = join(dir, 'sound.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', path, '1M');
  qemuIo(path, ['write -P 1 0 1M']);
  const bytes = readFileSync(path);
  const l1 = Number(bytes.readBigUInt64BE(40));
  const l2 = Number(bytes.readBigUInt64BE(l1) & 0x00fffffffffffe00n);
  const flag = 1n << 63n;
  const cases: [string, bigint, RegExp][] = [
    ['reserved', flag | (1n << 60n) | BigInt(CLUSTER * 8), /reserved/],
    ['unaligned', flag | BigInt(CLUSTER * 8 + 512), /boundary/],
    ['far', flag | (1n << 50n), /beyond the end/],
    ['header', (1n << 62n) | 512n, /header/],
    ['nowhere', flag, /byte 0/],
    ['L1 table', flag | BigInt(l1), /the L1 table/],
    ['packed far', (1n << 62n) | (1n << 40n), /beyond the end/],
  ];
  for (const [name, entry, why] of cases) {
    const sick = join(dir, 'sick.qcow2');
    copyFileSync(path, sick);
    patch(sick, l2 + 3 * 8, entry);
    const runs = runsOf(sick);
    t.equal(runs.length, 3, name);
    t.match(runs[1], { kind: 'bad', length: CLUSTER });
    t.match(runs[1]!.kind === 'bad' ? runs[1]!.why : '', why);
    t.equal(runs[0]!.length, 3 * CLUSTER);
  }
  for (const [name, entry] of [
    ['reserved', (1n << 58n) | BigInt(l2)],
    ['far', 1n << 50n],
    ['itself', BigInt(l1)],
  ] as const) {
    const sick = join(dir, 'sick.qcow2');
    copyFileSync(path, sick);
    patch(sick, l1, entry);
    t.match(runsOf(sick), [{ kind: 'bad', length: 2 ** 20 }], `L1 entry: ${name}`);
  }
});

t.test('an L2 table that is its own cluster of data ends', async t => {
  const dir = folder(t);
  const path = join(dir, 'loop.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', path, '32G');
  qemuIo(path, ['write -P 1 0 64k']);
  const bytes = readFileSync(path);
  const l1 = Number(bytes.readBigUInt64BE(40));
  const entry = bytes.readBigUInt64BE(l1);
  const l2 = Number(entry & 0x00fffffffffffe00n);
  // Every L1 entry is the one table, and every entry of that is the table itself.
  patch(path, l1, ...new Array<bigint>(64).fill(entry));
  patch(path, l2, ...new Array<bigint>(8192).fill(entry));
  const runs = runsOf(path);
  t.equal(
    runs.reduce((sum, { length }) => sum + length, 0),
    32 * 2 ** 30,
  );
  const chain = openChain(path);
  t.ok([...check(chain)].some(({ kind }) => kind === 'overlap' || kind === 'refcount'));
  chain.close();
});

t.test('a disk of 64 TiB with nothing in it is one run, whatever the cluster', async t => {
  const dir = folder(t);
  const path = join(dir, 'empty.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', path, '64T');
  t.match(runsOf(path), [{ kind: 'zero', length: 64 * 2 ** 40 }]);
  // The same with a table that is not even there: claimed, never allocated.
  const claim = join(dir, 'claim.qcow2');
  writeFileSync(claim, readFileSync(path).subarray(0, 3 * CLUSTER));
  t.match(runsOf(claim), [{ kind: 'bad', length: 64 * 2 ** 40 }]);
});

t.test('what cannot be read is refused by name', async t => {
  const dir = folder(t);
  const secret = ['--object', 'secret,id=s,data=geheim'];
  const aes = join(dir, 'aes.qcow2');
  const method = 'encrypt.format=aes,encrypt.key-secret=s';
  qemuImg('create', '-q', ...secret, '-f', 'qcow2', '-o', method, aes, '1M');
  refuses(t, aes, 'IMAGE_ENCRYPTED', /AES/);

  const sound = join(dir, 'sound.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', sound, '1M');
  const cases: [number, bigint, ErrorCode, RegExp][] = [
    // The peer measures the machine to make a LUKS image, which fails on a busy one; the header says the same.
    [32, 2n << 32n, 'IMAGE_ENCRYPTED', /LUKS/],
    [32, 3n << 32n, 'IMAGE_CORRUPT', /encryption method 3/],
    [72, 1n << 7n, 'IMAGE_UNSUPPORTED', /bit 7/],
    [72, 1n << 3n, 'IMAGE_CORRUPT', /compression type/],
    [72, 1n << 2n, 'IMAGE_CORRUPT', /external data file/],
    [24, 1n << 62n, 'IMAGE_CORRUPT', /2\^53/],
    [24, 1n << 50n, 'IMAGE_CORRUPT', /L1 table has/],
    [40, 512n, 'IMAGE_CORRUPT', /L1 table at byte 512/],
    [96, (7n << 32n) | 112n, 'IMAGE_CORRUPT', /wider than 64/],
    [96, (4n << 32n) | 8n, 'IMAGE_CORRUPT', /header of 8 bytes/],
    [0, 0x514649fb00000004n, 'IMAGE_UNSUPPORTED', /version 4/],
  ];
  for (const [at, value, code, words] of cases) {
    const sick = join(dir, 'sick.qcow2');
    copyFileSync(sound, sick);
    patch(sick, at, value);
    refuses(t, sick, code, words);
  }
  const stub = join(dir, 'stub.qcow2');
  writeFileSync(stub, readFileSync(sound).subarray(0, 60));
  refuses(t, stub, 'IMAGE_CORRUPT', /ends at byte 60/);
});

t.test('dirty and corrupt images are read, and say so', async t => {
  const dir = folder(t);
  const path = join(dir, 'image.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '1M');
  qemuIo(path, ['write -P 1 0 100k']);
  const sound = convert(path);
  for (const [bits, word, severity] of [
    [1n, 'dirty', 'note'],
    [2n, 'corrupt', 'defect'],
  ] as const) {
    patch(path, 72, bits);
    const chain = openChain(path);
    t.ok(chain.members[0]!.features.includes(word));
    t.ok(chain.members[0]!.features.includes('lazy-refcounts'));
    t.ok([...check(chain)].some(one => one.severity === severity && one.what.includes(word)));
    t.ok(readAll(points(chain)[0]!.open()).bytes.equals(sound));
    chain.close();
  }
});
