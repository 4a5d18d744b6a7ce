/**
 * A hold for whoever takes a snapshot below a live device: nobody writes between its beginning and its end, it ends by itself
 * at its limit, and whoever learns that takes no moment.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { whileHeld } from '../../src/cow/hold.js';
import { loadAddon } from '../../src/native.js';
import { codeOf, MiB, openVolumes, scratch } from './lab.js';

async function setUp(t: Test) {
  const folder = scratch(t);
  const { volumes, close } = await openVolumes(t, join(folder, 'state'));
  const opened = [];
  for (const name of ['a', 'b']) {
    writeFileSync(join(folder, name), Buffer.alloc(MiB, 1));
    opened.push((await volumes.add({ name, origin: join(folder, name), durability: 'process' })).opened());
  }
  return { folder, close, opened, volumes };
}

t.test('nobody writes while it is held', async t => {
  const { folder, close, opened } = await setUp(t);
  const [a, b] = opened as [(typeof opened)[0], (typeof opened)[0]];
  await a.live.native.write(0, Buffer.alloc(4096, 2));
  let written = false;
  const writes: Promise<unknown>[] = [];
  const {
    time,
    writes: met,
    epochs,
  } = await whileHeld(opened, 60_000, async () => {
    for (const one of opened)
      writes.push(one.live.native.write(4096, Buffer.alloc(4096, 3)).then(() => (written = true)));
    // What is asked for after the writes is answered before them.
    for (let i = 0; i < 20; i++) await b.live.native.read(0, Buffer.alloc(4096));
    t.equal(written, false);
    for (const name of ['a', 'b']) t.equal(readFileSync(join(folder, name))[4096], 1);
  });
  await Promise.all(writes);
  t.ok(time > 0);
  t.same(met, [1, 0], 'the writes before it are counted');
  t.same(
    epochs,
    opened.map(({ native }) => native.activity().epoch),
  );
  for (const name of ['a', 'b'])
    t.equal(readFileSync(join(folder, name))[4096], 3, 'and then they come through');
  await close();
});

t.test('at its limit it ends by itself, and is no moment', async t => {
  const { close, opened } = await setUp(t);
  const [a] = opened;
  let went = false;
  const late = whileHeld(opened, 50, async () => {
    await a!.live.native.write(0, Buffer.alloc(4096, 3)); // which waits for the limit
    went = true;
  });
  await t.rejects(late, /let go/);
  t.ok(went);
  const failing = whileHeld(opened, 60_000, () => Promise.reject(new Error('lvcreate says no')));
  await t.rejects(failing, /says no/);
  await a!.live.native.write(0, Buffer.alloc(4096, 4)); // it would hang if it were held still
  await close();
});

t.test('end is once; a cow snapshot of the same volumes waits', async t => {
  const { close, opened } = await setUp(t);
  const natives = opened.map(({ native }) => native);
  const { CowVolume } = loadAddon();
  const hold = await CowVolume.hold(natives, 1000, 60_000);
  let taken = false;
  const requests = natives.toReversed().map(volume => ({ volume, id: randomUUID() }));
  const snapshot = CowVolume.snapshot(requests, randomUUID(), 10_000).then(() => (taken = true));
  await opened[0]!.live.native.read(0, Buffer.alloc(4096));
  t.equal(taken, false);
  t.equal(hold.end(), true);
  t.equal(hold.end(), false);
  await snapshot;
  t.equal(await codeOf(() => CowVolume.hold([], 1, 1)), 'EINVAL');
  t.equal(await codeOf(() => CowVolume.hold([natives[0]!, natives[0]!], 1, 1)), 'EINVAL');
  await close();
  t.equal(await codeOf(() => CowVolume.hold(natives, 1, 1)), 'ESHUTDOWN');
});
