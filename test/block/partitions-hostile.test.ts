/**
 * Mutated tables and superblocks: nothing throws, hangs or reads without bound, all that is shown lies within the
 * disk; and of a table, libblkid finds the same partitions wherever it finds any.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { contentOf } from '../../src/block/content.js';
import { surveyPartitions } from '../../src/block/partitions.js';
import { missing, run } from '../peers.js';
import { bytesOf, partx } from './partx.js';

const folder = mkdtempSync(join(tmpdir(), 'asof-hostile-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const SIZE = 4 * 2 ** 20;

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

function mutated(
  bytes: Buffer,
  places: readonly (readonly [from: number, to: number])[],
  seed: number,
  inPlace = false,
): Buffer {
  const next = random(seed);
  const at = (limit: number) => Math.floor(next() * limit);
  const copy = inPlace ? bytes : Buffer.from(bytes);
  for (let i = 0; i <= at(4); i++) {
    const [from, to] = places[at(places.length)]!;
    const place = from + at(to - from - 8);
    const values = [0, 1, 0x7f, 0x80, 0xff, at(256)];
    if (next() < 0.3) copy.writeUInt32LE([0, 0xffffffff, 0x7fffffff, at(16384), 2048][at(5)]!, place);
    else copy[place] = values[at(values.length)]!;
  }
  return copy;
}

async function made(script: string): Promise<Buffer> {
  const path = join(folder, 'made');
  writeFileSync(path, Buffer.alloc(SIZE));
  await run('sfdisk', ['--quiet', '--no-tell-kernel', path], { input: script });
  return readFileSync(path);
}

async function holds(t: Test, bytes: Buffer, what: string) {
  const disk = bytesOf(bytes);
  const { table } = await surveyPartitions(disk);
  const sound = (table?.partitions ?? []).every(
    ({ start, size }) => start >= 0 && size > 0 && start + size <= bytes.length,
  );
  if (!sound || disk.asked.reads > 3000 || disk.asked.bytes > 2 ** 26) t.fail(what, { table, ...disk.asked });
  return table;
}

const skip = missing(['sfdisk', 'partx']);
const DOS =
  'label: dos\nstart=64,size=500,type=83\nstart=1000,size=6000,type=5\nstart=1064,size=100\nstart=1300,size=100\nstart=2000,size=64\n';

t.test('an MBR with logical partitions', { skip }, async t => {
  const bytes = await made(DOS);
  const places = [446, 1000 * 512 + 446, 1237 * 512 + 446].map(at => [at, at + 66] as const);
  for (let seed = 0; seed < 500; seed++) await holds(t, mutated(bytes, places, seed), `seed ${seed}`);
  t.pass();
});

t.test('a GPT', { skip }, async t => {
  const bytes = await made('label: gpt\nstart=64,size=500\nstart=1000,size=600,name=x\nstart=2000,size=64\n');
  const places = [
    [446, 512],
    [512, 604],
    [1024, 1024 + 512],
    [SIZE - 512, SIZE - 420],
  ] as const;
  for (let seed = 0; seed < 500; seed++) await holds(t, mutated(bytes, places, seed), `seed ${seed}`);
  t.pass();
});

t.test('libblkid finds the same', { skip }, async t => {
  const bytes = await made(DOS);
  const path = join(folder, 'mutant');
  let compared = 0;
  for (let seed = 0; seed < 60; seed++) {
    const mutant = mutated(
      bytes,
      [
        [446, 510],
        [1000 * 512 + 446, 1000 * 512 + 510],
      ],
      seed,
    );
    writeFileSync(path, mutant);
    const theirs = await partx(path);
    const { table, defects } = await surveyPartitions(bytesOf(mutant));
    if (theirs.length === 0) continue;
    compared++;
    // They show what begins beyond the end, and are silent of what is cut off there.
    const expected = theirs
      .filter(({ start }) => start < SIZE)
      .map(({ number, start, size }) => [number, start, size]);
    const found = (table?.partitions ?? []).map(({ number, start, stated }) => [number, start, stated]);
    if (JSON.stringify(found) !== JSON.stringify(expected))
      t.same(found, expected, `seed ${seed}: ${defects.join()}`);
  }
  t.ok(compared > 30, `${compared} with partitions`);
});

const SUPERBLOCKS: [program: string, options: string[], size: number][] = [
  ['mkfs.ext4', ['-q'], SIZE],
  ['mkntfs', ['-F', '-q', '-Q', '-L', 'label'], SIZE],
  ['mkfs.fat', ['-F', '16', '-n', 'LABEL'], 3 * SIZE],
  ['mkfs.fat', ['-F', '32', '-n', 'LABEL'], 12 * SIZE],
  ['mkfs.exfat', ['-n', 'label'], SIZE],
  ['mkswap', ['-L', 'label'], SIZE],
];

for (const [program, options, size] of SUPERBLOCKS) {
  t.test(`${program} ${options.join(' ')}`, { skip: missing([program]) }, async t => {
    const path = join(folder, 'fs');
    writeFileSync(path, Buffer.alloc(size));
    execFileSync(program, [...options, path], {
      stdio: 'ignore',
      env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    });
    const bytes = readFileSync(path);
    const head = Buffer.from(bytes.subarray(0, 8192));
    for (let seed = 0; seed < 60; seed++) {
      head.copy(bytes);
      const disk = bytesOf(
        mutated(
          bytes,
          [
            [0, 512],
            [1024, 1500],
            [4000, 4096],
          ],
          seed,
          true,
        ),
      );
      await contentOf(disk);
      if (disk.asked.reads > 200 || disk.asked.bytes > 2 ** 24) t.fail(`seed ${seed}`, disk.asked);
    }
    t.pass();
  });
}
