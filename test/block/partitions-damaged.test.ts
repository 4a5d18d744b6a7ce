/** Tables that are damaged or lie: what can be vouched for is shown, all else is said, and nothing is read without end. */
import t from 'tap';
import { crc32 } from '../../src/block/crc32.js';
import { partitionOf, partitionsOf, surveyPartitions } from '../../src/block/partitions.js';
import { bytesOf } from './partx.js';

const MIB = 2 ** 20;

interface Made {
  readonly sectorSize?: 512 | 4096;
  readonly entrySize?: number;
  readonly entries: readonly (readonly [first: number, last: number])[];
  readonly size?: number;
}

/** A GPT by the specification (UEFI 2.10, 5.3), with both headers. */
function gpt({ sectorSize = 512, entrySize = 128, entries, size = 4 * MIB }: Made): Buffer {
  const disk = Buffer.alloc(size);
  disk.writeUInt8(0xee, 450);
  disk.writeUInt32LE(1, 454);
  disk.writeUInt32LE(size / sectorSize - 1, 458);
  disk.writeUInt16LE(0xaa55, 510);
  const table = Buffer.alloc(Math.ceil((128 * entrySize) / sectorSize) * sectorSize);
  entries.forEach(([first, last], i) => {
    table.fill(0xa0 + (i % 16), i * entrySize, i * entrySize + 32);
    table.writeBigUInt64LE(BigInt(first), i * entrySize + 32);
    table.writeBigUInt64LE(BigInt(last), i * entrySize + 40);
  });
  const sectors = table.length / sectorSize;
  const end = size / sectorSize - 1;
  const header = (own: number, other: number, place: number) => {
    const bytes = Buffer.alloc(92);
    bytes.write('EFI PART');
    bytes.writeUInt32LE(0x10000, 8);
    bytes.writeUInt32LE(92, 12);
    bytes.writeBigUInt64LE(BigInt(own), 24);
    bytes.writeBigUInt64LE(BigInt(other), 32);
    bytes.writeBigUInt64LE(BigInt(2 + sectors), 40);
    bytes.writeBigUInt64LE(BigInt(end - sectors - 1), 48);
    bytes.writeBigUInt64LE(BigInt(place), 72);
    bytes.writeUInt32LE(128, 80);
    bytes.writeUInt32LE(entrySize, 84);
    bytes.writeUInt32LE(crc32(table.subarray(0, 128 * entrySize)), 88);
    bytes.writeUInt32LE(crc32(bytes), 16);
    return bytes;
  };
  header(1, end, 2).copy(disk, sectorSize);
  table.copy(disk, 2 * sectorSize);
  table.copy(disk, (end - sectors) * sectorSize);
  header(end, 1, end - sectors).copy(disk, end * sectorSize);
  return disk;
}

type Row = readonly [type: number, start: number, count: number, status?: number];

function mbr(disk: Buffer, at: number, rows: readonly Row[]): void {
  rows.forEach(([type, start, count, status = 0], i) => {
    disk.writeUInt8(status, at + 446 + 16 * i);
    disk.writeUInt8(type, at + 450 + 16 * i);
    disk.writeUInt32LE(start, at + 454 + 16 * i);
    disk.writeUInt32LE(count, at + 458 + 16 * i);
  });
  disk.writeUInt16LE(0xaa55, at + 510);
}

const places = async (disk: Buffer, sectorSize: 512 | 4096 = 512) => {
  const { table, defects } = await surveyPartitions(bytesOf(disk, sectorSize));
  return {
    found: table?.partitions.map(({ number, start, size }) => [number, start / 512, size / 512]),
    defects,
  };
};

t.test('entries longer than 128 bytes', async t => {
  for (const entrySize of [256, 512, 4096]) {
    const { found, defects } = await places(
      gpt({
        entrySize,
        entries: [
          [2000, 2999],
          [3000, 3099],
        ],
        size: 8 * MIB,
      }),
    );
    t.same(
      found,
      [
        [1, 2000, 1000],
        [2, 3000, 100],
      ],
      `${entrySize} bytes`,
    );
    t.same(defects, []);
  }
});

t.test('the second header of a GPT, where the first is damaged', async t => {
  const damage: [string, (disk: Buffer) => void, RegExp][] = [
    ['no header', disk => disk.fill(0, 512, 1024), /has no header/],
    ['a flipped bit in it', disk => disk.writeUInt8(disk[512 + 48]! ^ 1, 512 + 48), /checksum of its header/],
    [
      'a flipped bit in the entries',
      disk => disk.writeUInt8(disk[1024 + 40]! ^ 1, 1024 + 40),
      /checksum of its entries/,
    ],
  ];
  for (const [name, work, why] of damage) {
    const disk = gpt({
      entries: [
        [100, 199],
        [300, 399],
      ],
    });
    work(disk);
    const { found, defects } = await places(disk);
    t.same(
      found,
      [
        [1, 100, 100],
        [2, 300, 100],
      ],
      name,
    );
    t.equal(defects.length, 1);
    t.match(defects[0], why);
    t.match(defects[0], /the second one, in sector 8191, is used/);
  }
  const big = gpt({ sectorSize: 4096, entries: [[100, 199]] });
  big.fill(0, 4096, 8192);
  t.same((await places(big)).found, [[1, 800, 800]], 'in sectors of 4096 bytes');
});

t.test('a second header that is damaged, or not where it belongs', async t => {
  const damaged = gpt({ entries: [[100, 199]] });
  damaged.fill(0, damaged.length - 512);
  t.match((await places(damaged)).defects, [/the second header of the GPT is damaged/]);
  const grown = Buffer.concat([gpt({ entries: [[100, 199]] }), Buffer.alloc(MIB)]);
  t.match((await places(grown)).defects, [/not at the end of the disk, but in sector 8191 of 10240/]);
  const cut = await places(
    gpt({
      entries: [
        [100, 199],
        [3000, 7000],
        [7001, 7100],
      ],
    }).subarray(0, 2 * MIB),
  );
  t.same(
    cut.found,
    [
      [1, 100, 100],
      [2, 3000, 1096],
    ],
    'cut off where the disk ends, and none beyond it',
  );
  t.match(cut.defects, [
    /beyond the end of the disk/,
    /p2 has 2048512 bytes, of which the disk ends after 561152/,
    /p3 begins beyond the end of the disk: it is not shown/,
  ]);
});

t.test('no header of a GPT is sound', async t => {
  const disk = gpt({ entries: [[100, 199]] });
  disk.fill(0, 512, 1024);
  disk.fill(0, disk.length - 512);
  const { found, defects } = await places(disk);
  t.equal(found, undefined);
  t.match(defects, [/no second header is sound/]);
  await t.rejects(
    partitionsOf(bytesOf(disk)),
    { code: 'IMAGE_CORRUPT' },
    'whoever must have a partition is refused',
  );
});

t.test('a GPT that no MBR guards', async t => {
  const disk = gpt({ entries: [[100, 199]] });
  disk.fill(0, 0, 512);
  const { found, defects } = await places(disk);
  t.equal(found, undefined);
  t.match(defects, [/no MBR says that it counts/]);
});

t.test('entries of a GPT that make no sense', async t => {
  const { found, defects } = await places(
    gpt({
      entries: [
        [200, 100],
        [100, 300],
        [250, 400],
        [1, 20],
        [2 ** 52, 2 ** 53 - 1],
      ],
    }),
  );
  t.same(found, [
    [2, 100, 201],
    [3, 250, 151],
    [4, 1, 20],
  ]);
  t.match(defects.join('\n'), /p1 ends before it begins/);
  t.match(defects.join('\n'), /p2 and p3 overlap/);
  t.match(defects.join('\n'), /p4 lies outside of what its table has for partitions/);
  t.match(defects.join('\n'), /p5 begins beyond the end of the disk/);
});

t.test('an MBR that leads beyond the end of the disk', async t => {
  const disk = Buffer.alloc(MIB);
  mbr(disk, 0, [
    [0x83, 100, 100],
    [0x83, 1000, 5000],
    [0x83, 0xfffffff0, 0xffffffff],
    [0x83, 150, 100],
  ]);
  const { found, defects } = await places(disk);
  t.same(found, [
    [1, 100, 100],
    [2, 1000, 1048],
    [4, 150, 100],
  ]);
  t.match(defects, [
    /p2 has 2560000 bytes, of which the disk ends after 536576/,
    /p3 begins beyond/,
    /p1 and p4 overlap/,
  ]);
  t.match(await partitionOf(bytesOf(disk), 1, 'it'), { start: 51200 });
  await t.rejects(
    partitionOf(bytesOf(disk), 2, 'it'),
    { code: 'PARTITION_UNKNOWN' },
    'one that is not whole is none to restore',
  );
});

t.test('chains of logical partitions', async t => {
  const chain = (links: (disk: Buffer) => void) => {
    const disk = Buffer.alloc(MIB);
    mbr(disk, 0, [[0x05, 100, 1000]]);
    mbr(disk, 100 * 512, [
      [0x83, 10, 20],
      [0x05, 100, 100],
    ]);
    links(disk);
    return disk;
  };
  const loop = await places(
    chain(disk =>
      mbr(disk, 200 * 512, [
        [0x83, 10, 20],
        [0x05, 100, 100],
      ]),
    ),
  );
  t.same(loop.found, [
    [5, 110, 20],
    [6, 210, 20],
  ]);
  t.match(loop.defects, [/comes back to itself/]);
  const broken = await places(chain(() => {}));
  t.same(broken.found, [[5, 110, 20]]);
  t.match(broken.defects, [/is broken: no table is there/]);
  const beyond = await places(
    chain(disk =>
      mbr(disk, 200 * 512, [
        [0x83, 10, 20],
        [0x05, 100000, 100],
      ]),
    ),
  );
  t.match(beyond.defects, [/leads beyond the end of the disk/]);
  const outside = await places(chain(disk => mbr(disk, 200 * 512, [[0x83, 10, 1500]])));
  t.match(outside.defects, [/p6 lies outside of the extended partition/]);
});

t.test('a chain of logical partitions without end', async t => {
  const disk = Buffer.alloc(4 * MIB);
  mbr(disk, 0, [[0x05, 1, 8000]]);
  for (let i = 1; i < 8000; i++)
    mbr(disk, i * 512, [
      [0x83, 1, 1],
      [0x05, i, 1],
    ]);
  const file = bytesOf(disk);
  const { table, defects } = await surveyPartitions(file);
  t.equal(table?.partitions.length, 256);
  t.match(defects[0], /more than 256 logical partitions/);
  t.ok(file.asked.reads < 2000);
  const bare = Buffer.alloc(4 * MIB);
  mbr(bare, 0, [[0x05, 1, 8000]]);
  for (let i = 1; i < 8000; i++)
    mbr(bare, i * 512, [
      [0, 0, 0],
      [0x05, i, 1],
    ]);
  t.match((await surveyPartitions(bytesOf(bare))).defects, [/links without a partition/]);
});

t.test('more partitions than are shown', async t => {
  const entries = Array.from({ length: 128 }, (_, i) => [100 + i, 100 + i] as const);
  t.equal((await places(gpt({ entries }))).found?.length, 128);
});

t.test('a table that cannot be read', async t => {
  const disk = gpt({ entries: [[100, 199]] });
  const whole = bytesOf(disk);
  const bad = (from: number, to: number) => ({
    ...whole,
    read: async (offset: number, length: number) => {
      if (offset < to && offset + length > from) throw new Error('damaged for the test');
      return whole.read(offset, length);
    },
  });
  t.match(await surveyPartitions(bad(0, 512)), {
    table: undefined,
    defects: [/cannot be read: damaged for the test/],
  });
  const second = await surveyPartitions(bad(512, 1024));
  t.equal(second.table?.partitions.length, 1);
  t.match(second.defects, [/damaged for the test.*is used/]);
});
