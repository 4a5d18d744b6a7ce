/**
 * The damage matrix of VMDK: what is hit in a header, a descriptor or a table is an error or is refused, and so is any byte of a
 * packed grain. Plain grains, and the single tables of ESX, carry nothing by which damage could be told.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { descriptor } from '../fixtures/vmdk.js';
import { change, type Files, flipped, judge, type Target } from './damage-matrix.js';
import { folder, noise, qemuImg } from './peer.js';

t.setTimeout(240_000);
const CASES = Number(process.env['ASOF_CASES'] ?? 120);
const KIB = 1024;
const GRAIN = 64 * KIB;

const BYTES = Buffer.concat([
  noise(1, 10 * GRAIN),
  Buffer.from(noise(2, 5 * GRAIN).toString('hex'), 'latin1'),
  Buffer.alloc(7 * GRAIN),
  noise(3, 2 * GRAIN + 512 * 9),
]);
const SECTORS = BYTES.length / 512;

const made = folder(t);
writeFileSync(join(made, 'raw'), BYTES);

function write(subformat: string, zeroed = false): Buffer {
  const path = join(made, 'image.vmdk');
  const options = `subformat=${subformat}${zeroed ? ',zeroed_grain=on' : ''}`;
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', options, join(made, 'raw'), path);
  return readFileSync(path);
}

const u32 = (bytes: Buffer, at: number) => bytes.readUInt32LE(at);
const place = (bytes: Buffer, at: number) => Number(bytes.readBigUInt64LE(at)) * 512;

/** Header, descriptor, both directories and the first table of each. */
function targetsOf(name: string, bytes: Buffer): Target[] {
  const copy = place(bytes, 48);
  const main = place(bytes, 56);
  const tables = [copy, main]
    .filter(at => at > 0 && at < bytes.length)
    .map(at => [at, u32(bytes, at) * 512] as const);
  return [
    [name, 0, 79],
    [name, 512, 400],
    ...tables.flatMap(([directory, table]): Target[] => [
      [name, directory, 4],
      [name, table, 25 * 4],
      [name, table, 25 * 4],
    ]),
  ];
}

const stream = write('streamOptimized');
const images: { name: string; files: Files; targets: Target[]; anywhere: boolean }[] = [
  { name: 'sparse', bytes: write('monolithicSparse') },
  { name: 'zeros', bytes: write('monolithicSparse', true) },
].map(({ name, bytes }) => ({
  name,
  files: new Map([['image.vmdk', bytes]]),
  targets: targetsOf('image.vmdk', bytes),
  anywhere: false,
}));

const footer = stream.length - 1024;
images.push({
  name: 'stream',
  files: new Map([['image.vmdk', stream]]),
  targets: [
    ['image.vmdk', 0, 79],
    ['image.vmdk', 512, 400],
    ['image.vmdk', footer, 79],
    ['image.vmdk', place(stream, footer + 56), 4],
    ['image.vmdk', u32(stream, place(stream, footer + 56)) * 512, 25 * 4],
  ],
  anywhere: true,
});

for (const { name, files, targets, anywhere } of images) {
  const dir = folder(t);
  const bytes = files.get('image.vmdk')!;
  const run = (changed: Buffer) => judge(dir, new Map([['image.vmdk', changed]]), 'image.vmdk', BYTES);

  t.test(`${name}: sound`, async t => {
    t.match(run(bytes), { outcome: 'read', bad: 0, faults: [], findings: 0 });
  });

  t.test(`${name}: cut anywhere`, async t => {
    for (const share of [0, 0.0001, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999]) {
      t.same(run(bytes.subarray(0, Math.floor(bytes.length * share))).faults, [], `at ${share}`);
    }
  });

  t.test(`${name}: seeded changes`, async t => {
    const tally = { read: 0, refused: 0, bad: 0, sound: 0 };
    for (let seed = 1; seed <= CASES; seed++) {
      const { files: changed, what } = change(files, targets, seed, anywhere);
      const verdict = judge(dir, changed, 'image.vmdk', BYTES);
      if (verdict.faults.length > 0) t.fail(`${what}: ${verdict.faults[0]}`);
      tally[verdict.outcome]++;
      if (verdict.outcome === 'read') tally[verdict.bad > 0 ? 'bad' : 'sound']++;
    }
    t.comment(JSON.stringify(tally));
    t.ok(tally.bad > 10 && tally.refused > 10, 'damage was noticed');
  });
}

t.test('a bit of a packed grain is an error of that grain', async t => {
  const dir = folder(t);
  const at = Math.floor(footer / 2);
  const verdict = judge(dir, new Map([['image.vmdk', flipped(stream, at, 8)]]), 'image.vmdk', BYTES);
  t.match(verdict, { outcome: 'read', bad: GRAIN, faults: [] });
});

t.test('an entry that differs from its copy is an error of its grain', async t => {
  const dir = folder(t);
  const bytes = images[0]!.files.get('image.vmdk')!;
  for (const directory of [place(bytes, 48), place(bytes, 56)]) {
    const table = u32(bytes, directory) * 512;
    const verdict = judge(
      dir,
      new Map([['image.vmdk', flipped(bytes, table + 3 * 4, 0x80)]]),
      'image.vmdk',
      BYTES,
    );
    t.match(verdict, { outcome: 'read', faults: [], runs: [[3 * GRAIN, 4 * GRAIN]], why: /contradict/ });
  }
});

// Damage that makes a table and its copy the same cannot be told by comparing them: the entry leads to another grain's
// place then, which two claim, or to where no grain can be.
t.test('an entry that was changed in the table and in its copy alike', async t => {
  const dir = folder(t);
  const bytes = images[0]!.files.get('image.vmdk')!;
  const tables = [place(bytes, 48), place(bytes, 56)].map(directory => u32(bytes, directory) * 512);
  for (const bits of [0x80, 0x08]) {
    const changed = Buffer.from(bytes);
    for (const table of tables) changed[table + 3 * 4]! ^= bits;
    const entry = u32(changed, tables[0]! + 3 * 4);
    const others = Array.from({ length: 25 }, (_, i) => u32(changed, tables[0]! + i * 4));
    const hit = others.flatMap((one, i) => (one > 0 && i !== 3 && Math.abs(one - entry) < 128 ? [i] : []));
    t.ok(hit.length > 0, 'it leads to where other grains lie');
    const verdict = judge(dir, new Map([['image.vmdk', changed]]), 'image.vmdk', BYTES);
    t.match(verdict, { outcome: 'read', faults: [], why: /another grain/ });
    t.equal(verdict.bad, (1 + hit.length) * GRAIN, 'and these are bad with it');
  }
});

t.test('extents of a set: missing, swapped', async t => {
  const dir = folder(t);
  const half = 10 * GRAIN;
  const files: Files = new Map([
    ['a', BYTES.subarray(0, half)],
    ['b', BYTES.subarray(half)],
    [
      'image.vmdk',
      Buffer.from(
        descriptor({
          cid: '1',
          lines: [
            { sectors: half / 512, type: 'FLAT', name: 'a', offset: 0 },
            { sectors: SECTORS - half / 512, type: 'FLAT', name: 'b', offset: 0 },
          ],
        }),
      ),
    ],
  ]);
  t.match(judge(dir, files, 'image.vmdk', BYTES), { outcome: 'read', bad: 0, faults: [] });
  const without = new Map(files);
  without.delete('b');
  t.match(judge(dir, without, 'image.vmdk', BYTES), { outcome: 'refused', faults: [], why: /"b"/ });
  const swapped = new Map(files).set('a', files.get('b')!).set('b', files.get('a')!);
  t.match(judge(dir, swapped, 'image.vmdk', BYTES), { outcome: 'refused', faults: [], why: /swapped/ });
  const cut = new Map(files).set('b', BYTES.subarray(half, half + 1024));
  t.match(judge(dir, cut, 'image.vmdk', BYTES), {
    outcome: 'read',
    runs: [[half + 1024, BYTES.length]],
    faults: [],
  });
});
