/**
 * A snapshot never shows later data, however slow its reads are: readers of a snapshot run against writers of the same
 * chunks, with a delay in the origin's reads between the look at the map and the bytes, which is where later data would
 * slip in. And what a release takes away is an error, at once.
 */
import t from 'tap';
import { CowMachine, codeOf, filled, openVolume, randomOf, readAll, snapshot } from './rig.js';

const CHUNK = 16384;
const SIZE = 32 * CHUNK;

t.test('a slow origin shows no later data', async t => {
  const machine = new CowMachine([SIZE]);
  let now = filled(SIZE, 1);
  machine.setBytes(0, now);
  const { volume, live } = await openVolume({ size: SIZE, chunkSize: CHUNK, origin: { machine, file: 0 } });
  const random = randomOf(7);
  let overtaken = 0;
  for (let round = 0; round < 25; round++) {
    const id = await snapshot(volume);
    const disk = volume.disk(id);
    const before = Buffer.from(now);
    machine.setFaults(0, { readMs: 10 });
    // Reads that straddle chunks, under way while the writes pass.
    const readers = Array.from({ length: 2 }, async () => {
      const offset = random(SIZE - 3 * CHUNK);
      const into = Buffer.alloc(2 * CHUNK + random(CHUNK));
      await disk.read(offset, into);
      if (!into.equals(before.subarray(offset, offset + into.length)))
        throw new Error(`round ${round}: later data at ${offset}`);
    });
    const next = filled(SIZE, round + 2);
    const writers = Array.from({ length: 2 }, async (_, half) => {
      for (let chunk = half * 16; chunk < half * 16 + 16; chunk += 4) {
        await live.write(chunk * CHUNK, next.subarray(chunk * CHUNK, (chunk + 4) * CHUNK));
      }
    });
    await Promise.all([...readers, ...writers]);
    machine.setFaults(0, {});
    now = next;
    if (!(await readAll(disk, SIZE)).equals(before)) throw new Error(`round ${round}: the snapshot changed`);
    overtaken++;
    if (round % 3 === 0) await volume.delete(id);
  }
  t.equal(overtaken, 25);
  await volume.close();
});

t.test('released ranges are given back and read as errors', async t => {
  const machine = new CowMachine([SIZE]);
  const before = filled(SIZE, 1);
  machine.setBytes(0, before);
  const { volume, live } = await openVolume({ size: SIZE, chunkSize: CHUNK, origin: { machine, file: 0 } });
  const a = await snapshot(volume);
  await live.write(0, filled(4 * CHUNK, 2));
  const b = await snapshot(volume);
  t.equal(volume.activity().preserved, 4);
  // Whole chunks alone: 1 and 2 of what lies within.
  await volume.release(a, Float64Array.of(CHUNK / 2, 3 * CHUNK), 0);
  t.equal(volume.activity().preserved, 2, 'given back');
  const into = Buffer.alloc(CHUNK);
  t.equal(await codeOf(volume.disk(a).read(CHUNK, into)), 'DAMAGED');
  t.equal(await codeOf(volume.disk(a).read(3 * CHUNK - 1, into)), 'DAMAGED', 'a read that touches one');
  await volume.disk(a).read(0, into);
  t.ok(into.equals(before.subarray(0, CHUNK)));
  // b still has all, and its copies serve it alone.
  const expected = Buffer.concat([filled(4 * CHUNK, 2), before.subarray(4 * CHUNK)]);
  await volume.release(b, Float64Array.of(10 * CHUNK, CHUNK), 0);
  await live.write(0, filled(SIZE, 3));
  // What a still needs of chunk 10 is kept, though the newer b gave it up.
  await volume.disk(a).read(10 * CHUNK, into);
  t.ok(into.equals(before.subarray(10 * CHUNK, 11 * CHUNK)));
  t.equal(await codeOf(volume.disk(b).read(10 * CHUNK, into)), 'DAMAGED');
  const head = Buffer.alloc(10 * CHUNK);
  await volume.disk(b).read(0, head);
  t.ok(head.equals(expected.subarray(0, 10 * CHUNK)));
  // Nobody needs chunk 10 of b, nor any of a, once a is gone.
  await volume.delete(a);
  t.equal(volume.activity().preserved, SIZE / CHUNK - 1);
  // A snapshot that is wholly released costs its writers nothing.
  const c = await snapshot(volume);
  await volume.release(c, Float64Array.of(0, SIZE), 0);
  await volume.delete(b);
  const { copies } = volume.activity();
  await live.write(0, filled(SIZE, 4));
  t.equal(volume.activity().copies, copies);
  await volume.close();
});

t.test('a snapshot that ends under a reader is an error, not other bytes', async t => {
  const machine = new CowMachine([SIZE]);
  machine.setBytes(0, filled(SIZE, 1));
  const { volume, live } = await openVolume({ size: SIZE, chunkSize: CHUNK, origin: { machine, file: 0 } });
  const id = await snapshot(volume);
  await live.write(0, filled(CHUNK, 2));
  const disk = volume.disk(id);
  machine.setFaults(0, { readMs: 100 });
  const reading = codeOf(disk.read(0, Buffer.alloc(SIZE)));
  await volume.delete(id);
  t.match(await reading, /ESHUTDOWN|^$/);
  t.equal(await codeOf(disk.read(0, Buffer.alloc(512))), 'ESHUTDOWN');
  await volume.close();
});
