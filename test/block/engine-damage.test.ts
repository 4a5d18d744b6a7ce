/** Right bytes or an error: files that are cut, changed or unreadable, and answers that are wrong. */
import { closeSync, openSync, readFileSync, readSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { type Defect, Disk, type OnDamage } from '../../src/block/disk.js';
import { CODECS, type Extent, type PackedExtent } from '../../src/block/extent.js';
import { ImageFile } from '../../src/block/file.js';
import { Engine, type NativeRegion } from '../../src/native.js';
import { missing } from '../peers.js';
import { listedDisk, Model, noise, text } from './model.js';

const model = new Model();
t.teardown(() => model.close());

function engineOf(t: Test): Engine {
  const engine = new Engine({ cacheBytes: 2 ** 20, mapBytes: 2 ** 20, threads: 2 });
  t.teardown(() => engine.close());
  return engine;
}

function fileOf(t: Test, bytes: Buffer): ImageFile {
  const path = join(t.testdir(), 'image');
  writeFileSync(path, bytes);
  const file = ImageFile.open(path);
  t.teardown(() => file.close());
  return file;
}

function diskOf(t: Test, runs: readonly Extent[], onDamage: OnDamage = 'error'): Disk {
  const disk = new Disk(engineOf(t), listedDisk(runs), onDamage);
  t.teardown(() => disk.close());
  return disk;
}

const places = (defects: readonly Defect[]) => defects.map(({ offset, length }) => [offset, length]);

t.test('a file that shrank after it was opened', async t => {
  const bytes = noise(100_000, 3);
  const file = fileOf(t, bytes);
  const disk = diskOf(t, [
    { kind: 'zero', length: 4096 },
    { kind: 'data', length: 100_000, file, offset: 0 },
  ]);
  t.ok((await disk.read(4096, 100_000)).equals(bytes));
  truncateSync(file.path, 50_000);
  await t.rejects(disk.read(0, disk.size), { code: 'DAMAGED', message: /ends before/ });
  // The file's byte 50,000 is the disk's 54,096: the middle of a sector.
  const cut = Math.floor(54_096 / 512) * 512;
  t.same(places(disk.defects()), [[cut, disk.size - cut]]);
  t.ok((await disk.read(0, cut)).equals(Buffer.concat([Buffer.alloc(4096), bytes]).subarray(0, cut)));
  await t.rejects(disk.read(cut, 1), { code: 'DAMAGED' });
});

t.test('a run of data that begins behind the end of its file', async t => {
  const file = fileOf(t, noise(1000, 4));
  const disk = diskOf(t, [
    { kind: 'data', length: 2048, file, offset: 512 },
    { kind: 'data', length: 2048, file, offset: 2 ** 52 },
  ]);
  await t.rejects(disk.read(0, 4096), { code: 'DAMAGED' });
  t.same(places(disk.defects()), [[0, 4096]]);
});

t.test('an I/O error is the error of the sectors that it hits', async t => {
  // This process's own memory as a file: what is mapped can be read, what is not is EIO (proc(5)).
  const fd = openSync('/proc/self/mem', 'r');
  t.teardown(() => closeSync(fd));
  const end = mappedEnd();
  const last = Buffer.alloc(1536);
  readSync(fd, last, 0, last.length, end - last.length);
  // As much of an image file as the engine looks at.
  const file = { fd, path: '/proc/self/mem' } as unknown as ImageFile;
  const run: Extent = { kind: 'data', length: 4096, file, offset: end - 1536 };
  const disk = diskOf(t, [{ kind: 'zero', length: 512 }, run, { kind: 'zero', length: 512 }]);
  await t.rejects(disk.read(0, disk.size), { code: 'DAMAGED', message: /Input\/output error/ });
  t.same(places(disk.defects()), [[2048, 2560]]);
  t.ok((await disk.read(0, 2048)).equals(Buffer.concat([Buffer.alloc(512), last])));
  await t.rejects(disk.read(2048, 1), { code: 'DAMAGED' });
  t.ok((await disk.read(4608, 512)).equals(Buffer.alloc(512)));
});

/** Where the mapping of a library ends and nothing is mapped behind it: its bytes do not change. */
function mappedEnd(): number {
  const maps = readFileSync('/proc/self/maps', 'latin1')
    .trim()
    .split('\n')
    .map(line => {
      const [, start, end, path] = /^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \S+ *(.*)$/.exec(line) ?? [];
      return { start: Number.parseInt(start ?? '0', 16), end: Number.parseInt(end ?? '0', 16), path };
    });
  const last = maps.find(
    ({ end, path }, i) =>
      path?.includes('/lib') && (maps[i + 1]?.start ?? Number.POSITIVE_INFINITY) >= end + 4096,
  );
  if (!last) throw new Error('no library is mapped with a hole behind it');
  return last.end;
}

t.test('damaged blocks', async t => {
  for (const block of model.blocks) {
    const { codec, packedLength } = block;
    const unpackedLength = block.bytes.length;
    const sound = model.packed.read(block.offset, packedLength);
    const before = noise(512 - (unpackedLength % 512 || 512) + 512, 5);
    const runs = (file: ImageFile, over: Partial<Extent> = {}): Extent[] => [
      {
        kind: 'packed',
        length: unpackedLength,
        file,
        offset: 0,
        packedLength,
        codec,
        unpackedLength,
        skip: 0,
        ...over,
      } as Extent,
      { kind: 'zero', length: before.length },
    ];
    const sectors = Math.ceil(unpackedLength / 512) * 512;
    const broken = async (name: string, file: ImageFile, over: Partial<Extent> = {}) => {
      for (const onDamage of ['error', 'zero'] as const) {
        const disk = diskOf(t, runs(file, over), onDamage);
        if (onDamage === 'error') await t.rejects(disk.read(0, 1), { code: 'DAMAGED' }, name);
        else t.ok((await disk.read(0, disk.size)).equals(Buffer.alloc(disk.size)), name);
        t.same(places(disk.defects()), [[0, sectors]], name);
        t.ok((await disk.read(sectors, 300)).equals(Buffer.alloc(300)));
        disk.close();
      }
    };
    const name = `${codec}, ${unpackedLength} bytes`;
    await t.test(name, async t => {
      const file = (bytes: Buffer) => fileOf(t, bytes);
      const fine = diskOf(t, runs(file(sound)));
      t.ok((await fine.read(0, unpackedLength)).equals(block.bytes), 'sound');

      const garbage = Buffer.from(sound);
      garbage.fill(0xff, 0, 8);
      await broken('a broken head', file(garbage));
      await broken('zeros', file(Buffer.alloc(packedLength)));
      await broken('half of it is missing', file(sound.subarray(0, packedLength >> 1)));
      await broken('longer than the block', file(sound), {
        unpackedLength: unpackedLength + 1,
      } as Partial<Extent>);
      if (unpackedLength > 512) {
        await broken('shorter than the stream', file(sound), {
          unpackedLength: unpackedLength - 1,
          length: unpackedLength - 1,
        } as Partial<Extent>);
      }
      await broken('of the other codec', file(sound), {
        codec: codec === 'zstd' ? 'deflate' : 'zstd',
      } as Partial<Extent>);
      await broken('512 bytes beyond the file', file(sound), {
        packedLength: packedLength + 512,
      } as Partial<Extent>);
      const rounded = diskOf(t, runs(file(sound), { packedLength: packedLength + 511 } as Partial<Extent>));
      t.ok((await rounded.read(0, unpackedLength)).equals(block.bytes), '511 bytes beyond the file');
    });
  }
});

t.test('flipped bytes never give wrong bytes of a block that says so', async t => {
  // A deflate stream has no checksum of its own; a flipped bit gives an error or other bytes. What must never come is
  // memory that is not the stream's: two readers of one stream get the same.
  const bytes = text(65_536, 9);
  const packed = deflateRawSync(bytes);
  for (let i = 0; i < 40; i++) {
    const changed = Buffer.from(packed);
    changed[(i * 7919) % packed.length]! ^= 1 << (i % 8);
    const file = fileOf(t, changed);
    const run: Extent = {
      kind: 'packed',
      length: 65_536,
      file,
      offset: 0,
      packedLength: packed.length,
      codec: 'deflate',
      unpackedLength: 65_536,
      skip: 0,
    };
    const answers = [];
    for (const disk of [diskOf(t, [run]), diskOf(t, [run])]) {
      answers.push(
        await disk.read(0, 65_536).then(
          got => got.toString('base64'),
          error => error.code as string,
        ),
      );
      disk.close();
    }
    t.ok(answers[0] === answers[1], 'both readers are told the same');
    file.close();
  }
});

t.test('a place that two runs call by two names is two blocks', async t => {
  const block = model.blocks[4]!;
  const { codec, offset, packedLength } = block;
  const unpackedLength = block.bytes.length;
  const run: PackedExtent = {
    kind: 'packed',
    length: 1024,
    file: model.packed,
    offset,
    packedLength,
    codec,
    unpackedLength,
    skip: 512,
  };
  const disk = diskOf(t, [
    run,
    { ...run, codec: codec === 'zstd' ? 'deflate' : 'zstd' },
    { ...run, unpackedLength: unpackedLength + 1 },
    { ...run, packedLength: 20 },
    { ...run, file: model.plain },
    run,
  ]);
  const right = block.bytes.subarray(512, 1536);
  for (let turn = 0; turn < 2; turn++) {
    t.ok((await disk.read(0, 1024)).equals(right));
    for (const start of [1024, 2048, 3072, 4096]) await t.rejects(disk.read(start, 1), { code: 'DAMAGED' });
    t.ok((await disk.read(5120, 1024)).equals(right));
  }
});

t.test('several zstd frames, and frames to skip', { skip: missing(['qemu-img']) }, async t => {
  const [a, b] = model.blocks.filter(block => block.codec === 'zstd');
  const frame = (block: typeof a) => trimmed(model.packed.read(block!.offset, block!.packedLength));
  const skip = Buffer.concat([Buffer.from([0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('hello')]);
  const packed = Buffer.concat([skip, frame(a), skip, frame(b), Buffer.alloc(100)]);
  const expected = Buffer.concat([a!.bytes, b!.bytes]);
  const disk = diskOf(t, [
    {
      kind: 'packed',
      length: expected.length,
      file: fileOf(t, packed),
      offset: 0,
      packedLength: packed.length,
      codec: 'zstd',
      unpackedLength: expected.length,
      skip: 0,
    },
  ]);
  t.ok((await disk.read(0, expected.length)).equals(expected));
});

/** The frame alone, without what follows it: by its blocks' headers (RFC 8878, 3.1.1). */
function trimmed(bytes: Buffer): Buffer {
  const descriptor = bytes[4]!;
  const single = (descriptor >> 5) & 1;
  const size = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  let at = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]! + size;
  for (let last = false; !last; ) {
    const header = bytes.readUIntLE(at, 3);
    last = (header & 1) === 1;
    at += 3 + (((header >> 1) & 3) === 1 ? 1 : header >> 3);
  }
  return bytes.subarray(0, at + (descriptor & 4 ? 4 : 0));
}

t.test('a map that cannot be had is the error of that read, and is asked for again', async t => {
  const source = listedDisk([{ kind: 'data', length: 100_000, file: model.plain, offset: 0 }]);
  let broken = true;
  const disk = new Disk(engineOf(t), {
    ...source,
    extents(offset, length) {
      if (broken) throw new Error('the table has gone');
      return source.extents(offset, length);
    },
  });
  t.teardown(() => disk.close());
  await t.rejects(disk.read(1024, 2000), { code: 'DAMAGED', message: /the table has gone/ });
  t.same(disk.defects(), [{ offset: 1024, length: 2048, why: 'the table has gone' }]);
  broken = false;
  t.ok((await disk.read(0, 100_000)).equals(model.plainBytes.subarray(0, 100_000)));
});

t.test('answers that are not usable', async t => {
  const engine = engineOf(t);
  const file = engine.fileId(model.plain);
  const size = 2 ** 20;
  const region = (rows: number[], start = 0, reasons: unknown = []) => ({
    start,
    rows: Float64Array.from(rows),
    reasons: reasons as string[],
  });
  const data = [1, 65_536, file, 0, 0, 0, 0, 0];
  const packed = [2, 4096, file, 0, 100, 0, 8192, 0];
  const put = (row: number[], at: number, value: number) => row.map((old, i) => (i === at ? value : old));
  const wrong: Record<string, unknown> = {
    nothing: undefined,
    null: null,
    'a number': 5,
    'no rows': region([]),
    'half a row': region([0, 512, 0, 0]),
    'rows that are no doubles': { ...region(data), rows: new Float32Array(8) },
    'reasons that are no list': region(data, 0, 'reasons'),
    'reasons that are no strings': region(data, 0, [5]),
    'more reasons than rows': region(data, 0, ['a', 'b']),
    'a start behind': region(data, 65_536),
    'a start before it all': region(data, -512),
    'a start that is no integer': region(data, 0.5),
    'a start that is no number': { ...region(data), start: 'x' },
    'a kind that is none': region(put(data, 0, 4)),
    'a negative kind': region(put(data, 0, -1)),
    'no length': region(put(data, 1, 0)),
    'NaN bytes': region(put(data, 1, Number.NaN)),
    'infinitely many bytes': region(put(data, 1, Number.POSITIVE_INFINITY)),
    'half a byte': region(put(data, 1, 0.5)),
    'more than the disk': region(put(data, 1, size + 1)),
    'together more than the disk': region([...put(data, 1, size), ...data]),
    'a file that is none': region(put(data, 2, file + 1)),
    'a file offset of 2^53': region(put(data, 3, 2 ** 53)),
    'a file offset that ends beyond 2^53': region(put(data, 3, 2 ** 53 - 100)),
    'no packed bytes': region(put(packed, 4, 0)),
    'too many packed bytes': region(put(packed, 4, 2 ** 30)),
    'a codec that is none': region(put(packed, 5, CODECS.length)),
    'too many unpacked bytes': region(put(packed, 6, 2 ** 40)),
    'a run beyond its block': region(put(packed, 7, 4097)),
    'a skip beyond its block': region(put(packed, 7, 2 ** 32)),
    'a reason that is none': region([3, 512, 0, 0, 0, 0, 0, 0]),
    'a reason beyond the list': region([3, 512, 0, 0, 1, 0, 0, 0], 0, ['a']),
  };
  for (const [name, answer] of Object.entries(wrong)) {
    const disk = engine.openDisk(size, 512, false, () => answer as NativeRegion);
    await t.rejects(disk.read(0, Buffer.alloc(512)), { code: 'DAMAGED' }, name);
    t.match(disk.defects(), [{ offset: 0, length: 512, why: /the map of the image is not usable/ }], name);
    disk.close();
  }
  const short = engine.openDisk(size, 512, false, () => region(data));
  await t.rejects(short.read(65_536, Buffer.alloc(512)), { code: 'DAMAGED' }, 'a region that ends before');
  await t.resolves(short.read(0, Buffer.alloc(65_536)), 'what it does cover');
  short.close();
});

t.test('answers that overlap', async t => {
  // Each answer begins and ends elsewhere; all are true.
  const runs: Extent[] = Array.from({ length: 64 }, (_, i) =>
    i % 2
      ? { kind: 'zero', length: 4096 }
      : { kind: 'data', length: 4096, file: model.plain, offset: i * 4096 },
  );
  const source = listedDisk(runs);
  const expected = Buffer.from(model.render(runs));
  const engine = engineOf(t);
  const id = engine.fileId(model.plain);
  let turn = 0;
  const disk = engine.openDisk(source.size, 512, false, offset => {
    turn++;
    const start = Math.max(0, offset - ((turn * 7777) % 20_000));
    const end = Math.min(source.size, offset + 1 + ((turn * 3331) % 30_000));
    const rows = [...source.extents(start, end - start)].flatMap(run =>
      run.kind === 'data' ? [1, run.length, id, run.offset, 0, 0, 0, 0] : [0, run.length, 0, 0, 0, 0, 0, 0],
    );
    return { start, rows: Float64Array.from(rows), reasons: [] };
  });
  t.teardown(() => disk.close());
  let wrong = 0;
  for (let i = 0; i < 500; i++) {
    const offset = (i * 48_271) % (source.size - 3000);
    const buffer = Buffer.alloc(1 + ((i * 31) % 3000));
    await disk.read(offset, buffer);
    if (!buffer.equals(expected.subarray(offset, offset + buffer.length))) wrong++;
  }
  t.equal(wrong, 0);
  t.ok(turn < 100, `${turn} answers`);
});

t.test('a disk that is damaged all over has a list of bounded length', async t => {
  const runs: Extent[] = Array.from({ length: 20_000 }, (_, i) =>
    i % 2 ? { kind: 'zero', length: 512 } : { kind: 'bad', length: 512, why: 'broken' },
  );
  const disk = diskOf(t, runs);
  await t.rejects(disk.read(0, disk.size), { code: 'DAMAGED' });
  const defects = disk.defects();
  t.ok(defects.length < 5000);
  t.match(defects.at(-1)!.why, /and more/);
  t.equal(defects.at(-1)!.offset + defects.at(-1)!.length, disk.size - 512);
  t.same(places(defects.slice(0, 2)), [
    [0, 512],
    [1024, 512],
  ]);
});
