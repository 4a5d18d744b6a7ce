/** Blocks that carry a checksum are given out only where it is right: zlib streams, and plain bytes with an Adler-32 behind. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import type { PackedExtent } from '../../src/block/extent.js';
import { ImageFile } from '../../src/block/file.js';
import { Engine } from '../../src/native.js';
import { adler32 } from '../image/reader.js';
import { listedDisk, noise } from './model.js';

const SIZE = 32_768;
const engine = new Engine({ cacheBytes: 2 ** 20, mapBytes: 2 ** 20, threads: 2 });
t.teardown(() => engine.close());

const BYTES = noise(SIZE, 5);
const sum = Buffer.alloc(4);
sum.writeUInt32LE(adler32(BYTES));
const BLOCKS = { zlib: deflateSync(BYTES, { level: 1 }), adler32: Buffer.concat([BYTES, sum]) };

let made = 0;

function diskOf(codec: keyof typeof BLOCKS, block: Buffer, packedLength = block.length): Disk {
  const path = join(t.testdirName, String(made++));
  writeFileSync(path, block);
  const file = ImageFile.open(path);
  t.teardown(() => file.close());
  const run: PackedExtent = {
    kind: 'packed',
    length: SIZE,
    file,
    offset: 0,
    packedLength,
    codec,
    unpackedLength: SIZE,
    skip: 0,
  };
  const disk = new Disk(engine, listedDisk([run]));
  t.teardown(() => disk.close());
  return disk;
}

t.testdir();
for (const codec of ['zlib', 'adler32'] as const) {
  const block = BLOCKS[codec];

  t.test(`${codec}: sound, with padding or without`, async t => {
    t.ok((await diskOf(codec, block).read(0, SIZE)).equals(BYTES));
    t.ok((await diskOf(codec, Buffer.concat([block, noise(999, 6)])).read(0, SIZE)).equals(BYTES));
    t.ok((await diskOf(codec, block, block.length + 300).read(512, 512)).equals(BYTES.subarray(512, 1024)));
  });

  t.test(`${codec}: any flipped byte, at the cache and past it`, async t => {
    for (const at of [2, 7, 1000, SIZE >> 1, block.length - 4, block.length - 1]) {
      const changed = Buffer.from(block);
      changed[at]! ^= 1;
      const disk = diskOf(codec, changed);
      await t.rejects(disk.read(512, 512), { code: 'DAMAGED' }, `byte ${at}`);
      await t.rejects(disk.read(0, SIZE), { code: 'DAMAGED' });
      t.same(
        disk.defects().map(({ offset, length }) => [offset, length]),
        [[0, SIZE]],
      );
    }
  });

  t.test(`${codec}: cut`, async t => {
    for (const length of [0, 3, block.length - 600, block.length - 4, block.length - 1]) {
      const disk = diskOf(codec, block.subarray(0, length), block.length);
      await t.rejects(disk.read(0, SIZE), { code: 'DAMAGED' }, `${length} bytes`);
    }
  });
}
