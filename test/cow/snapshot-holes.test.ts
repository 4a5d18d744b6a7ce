/**
 * A snapshot's holes: never one where the snapshot has bytes that are not zero, whatever becomes of the origin meanwhile;
 * and where nothing was written later, all of the origin's.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { NativeReadable } from '../../src/native.js';
import { emptyFile, MiB, openVolumes, scratch } from './lab.js';

t.setTimeout(120_000);

const CHUNK = 65536;

async function setUp(t: Test, size: number, data: readonly (readonly [offset: number, length: number])[]) {
  const folder = scratch(t);
  const origin = emptyFile(join(folder, 'origin'), size);
  const fd = openSync(origin, 'r+');
  for (const [offset, length] of data) writeSync(fd, randomBytes(length), 0, length, offset);
  closeSync(fd);
  const { volumes } = await openVolumes(t, join(folder, 'state'));
  const volume = await volumes.add({ name: 'v', origin, durability: 'process' });
  const take = async () => (await volumes.snapshot(['v']))[0]!.id;
  return { volumes, volume, live: volume.opened().live.native, take, origin };
}

/** Start and length of each run of data, as lseek tells. */
async function dataOf(disk: NativeReadable, size: number): Promise<number[]> {
  const runs: number[] = [];
  for (let at = 0; at < size; ) {
    const data = await disk.seek(at, false);
    if (data < 0) break;
    const hole = await disk.seek(data, true);
    runs.push(data, hole - data);
    at = hole;
  }
  return runs;
}

async function bytesOf(disk: NativeReadable, size: number): Promise<Buffer> {
  const all = Buffer.alloc(size);
  await disk.read(0, all);
  return all;
}

/** What is no data must be zeros: the model is the whole disk's bytes, read. */
function allHolesZero(bytes: Buffer, runs: readonly number[]): boolean {
  const rest = Buffer.from(bytes);
  for (let i = 0; i < runs.length; i += 2) rest.fill(0, runs[i]!, runs[i]! + runs[i + 1]!);
  return rest.every(byte => byte === 0);
}

t.test('nothing was written later: the holes of the origin', async t => {
  const size = 16 * MiB;
  const { volume, take } = await setUp(t, size, [
    [2 * CHUNK, 3 * CHUNK],
    [100 * CHUNK, CHUNK],
  ]);
  const disk = volume.disk(await take()).native;
  t.same(await dataOf(disk, size), [2 * CHUNK, 3 * CHUNK, 100 * CHUNK, CHUNK]);
  t.equal(await disk.seek(101 * CHUNK, false), -1);
  t.equal(await disk.seek(size - 5, true), size - 5);
});

t.test('later writes and discards: what was preserved is data, the rest is as it was', async t => {
  const size = 16 * MiB;
  const { volume, live, take } = await setUp(t, size, [[2 * CHUNK, 3 * CHUNK]]);
  const disk = volume.disk(await take()).native;
  const before = await bytesOf(disk, size);
  await live.writeZeroes(3 * CHUNK, CHUNK, true); // data has become a hole
  await live.write(50 * CHUNK + 100, randomBytes(10)); // a hole has become data
  await live.write(size - 512, randomBytes(512));
  t.ok((await bytesOf(disk, size)).equals(before));
  const runs = await dataOf(disk, size);
  t.same(runs, [2 * CHUNK, 3 * CHUNK, 50 * CHUNK, CHUNK, size - CHUNK, CHUNK]);
  t.ok(allHolesZero(before, runs));
  t.equal(await disk.seek(50 * CHUNK + 9, false), 50 * CHUNK + 9);
  t.equal(await disk.seek(50 * CHUNK + 9, true), 51 * CHUNK);
});

t.test('under writers that punch and write all over it, no byte is ever hidden', async t => {
  const size = 8 * MiB;
  const chunks = size / CHUNK;
  const all = Array.from({ length: chunks / 2 }, (_, i) => [2 * i * CHUNK, CHUNK] as const);
  const { volumes, volume, live, take } = await setUp(t, size, all);
  for (let round = 0; round < 20; round++) {
    const id = await take();
    const disk = volume.disk(id).native;
    const model = await bytesOf(disk, size);
    let done = false;
    const writers = [0, 1].map(async writer => {
      for (let i = writer; i < chunks; i += 2) {
        const at = ((i * 37 + round) % chunks) * CHUNK;
        if ((i + round) % 3 === 0) await live.write(at, randomBytes(4096));
        else await live.writeZeroes(at, CHUNK, true);
      }
    });
    const seekers = [0, 1].map(async () => {
      while (!done) {
        const runs = await dataOf(disk, size);
        if (!allHolesZero(model, runs)) return `round ${round}: ${runs}`;
      }
      return '';
    });
    await Promise.all(writers);
    done = true;
    t.same(await Promise.all(seekers), ['', '']);
    t.ok((await bytesOf(disk, size)).equals(model));
    await volumes.deleteSnapshot(id);
  }
});

t.test('what was released reads as an error, and is therefore no hole', async t => {
  const size = 4 * MiB;
  const { volumes, volume, take } = await setUp(t, size, [[0, CHUNK]]);
  const id = await take();
  const disk = volume.disk(id).native;
  t.same(await dataOf(disk, size), [0, CHUNK]);
  await volumes.release(id, Float64Array.of(10 * CHUNK, CHUNK));
  t.same(await dataOf(disk, size), [0, size]);
});

t.test('a large sparse volume is answered for at once', async t => {
  const size = 2 ** 43;
  const { volume, live, take, origin } = await setUp(t, size, [[2 ** 42, CHUNK]]);
  const disk = volume.disk(await take()).native;
  await live.writeZeroes(2 ** 41, 4096, true);
  t.same(await dataOf(disk, size), [2 ** 41, CHUNK, 2 ** 42, CHUNK]);
  t.ok(statSync(origin).blocks * 512 < MiB);
});
