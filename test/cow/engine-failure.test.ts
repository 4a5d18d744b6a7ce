/**
 * When the copy fails: by policy the snapshot breaks, visibly and for good, and the volume goes on; or the writer gets the
 * error and the snapshot stays whole. Never later data in a snapshot, never zeros.
 */
import {
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { CowEvent, CowFaults, CowOptions } from '../../src/native.js';
import { CowMachine, codeOf, filled, openVolume, readAll, snapshot } from './rig.js';

const CHUNK = 65536;
const SIZE = 16 * CHUNK;
const ORIGIN = 0;
const STORE = 1;
const TRACKER = 2;
const EIO = 5;
const ENOSPC = 28;

function rig(options: Partial<CowOptions> = {}) {
  const machine = new CowMachine([SIZE, 0, 0]);
  const before = filled(SIZE, 1);
  machine.setBytes(ORIGIN, before);
  const events: CowEvent[] = [];
  const given = {
    size: SIZE,
    chunkSize: CHUNK,
    origin: { machine, file: ORIGIN },
    store: { machine, file: STORE },
    tracker: { machine, file: TRACKER },
    event: (event: CowEvent) => events.push(event),
    ...options,
  };
  return { machine, before, events, given, open: (create: boolean) => openVolume({ ...given, create }) };
}

const CASES: readonly {
  name: string;
  file: number;
  faults: CowFaults;
  options?: Partial<CowOptions>;
  why: RegExp;
}[] = [
  { name: 'the store answers EIO', file: STORE, faults: { writeError: EIO }, why: /copying failed/ },
  {
    name: 'a sync of the store fails',
    file: STORE,
    faults: { syncError: EIO },
    options: { durability: 'power' },
    why: /copying failed/,
  },
  {
    name: 'the file system is full',
    file: STORE,
    faults: { writeError: ENOSPC },
    why: /file system was full/,
  },
  { name: 'the limit is met', file: STORE, faults: {}, options: { limit: 200_000 }, why: /store was full/ },
  {
    name: 'the store hangs',
    file: STORE,
    faults: { hang: true },
    options: { timeoutMs: 200 },
    why: /did not answer within 200 ms/,
  },
];

for (const { name, file, faults, options, why } of CASES) {
  t.test(`${name}: break-snapshot`, async t => {
    const { machine, before, events, open } = rig(options);
    let { volume, live } = await open(true);
    const id = await snapshot(volume);
    const disk = volume.disk(id);
    t.ok((await readAll(disk, SIZE)).equals(before));
    machine.setFaults(file, faults);
    const after = filled(SIZE, 2);
    for (let at = 0; at < SIZE; at += CHUNK) await live.write(at, after.subarray(at, at + CHUNK));
    t.ok((await readAll(live, SIZE)).equals(after), 'the volume went on');
    const [listed] = volume.snapshots();
    t.match(listed, { state: 'broken', why });
    t.equal(await codeOf(disk.read(0, Buffer.alloc(512))), 'DAMAGED');
    t.match(disk.defects(), [{ offset: 0, length: SIZE, why }]);
    t.ok(events.some(event => event.kind === 'broken' && event.snapshot === id));
    // For good: also when the process dies now, and the store is sound again.
    volume.abandon();
    machine.setFaults(file, {});
    ({ volume, live } = await open(false));
    t.match(volume.snapshots(), [{ id, state: 'broken' }]);
    t.equal(await codeOf(volume.disk(id).read(0, Buffer.alloc(512))), 'DAMAGED');
    // And a new one is sound where the store is.
    if (options?.limit === undefined) {
      const next = await snapshot(volume);
      await live.write(5, before.subarray(0, 100));
      t.ok((await readAll(volume.disk(next), SIZE)).equals(after));
    }
    await volume.delete(id);
    await volume.close();
  });

  t.test(`${name}: break-write`, async t => {
    const { machine, before, open } = rig({ ...options, onError: 'break-write' });
    let { volume, live } = await open(true);
    const id = await snapshot(volume);
    machine.setFaults(file, faults);
    const after = filled(SIZE, 2);
    let refused = 0;
    for (let at = 0; at < SIZE; at += CHUNK) {
      if ((await codeOf(live.write(at, after.subarray(at, at + CHUNK)))) !== '') refused++;
    }
    t.ok(refused > 10, `${refused} writes were refused`);
    t.match(volume.snapshots(), [{ id, state: 'live' }]);
    if (faults.hang !== true)
      t.ok((await readAll(volume.disk(id), SIZE)).equals(before), 'the snapshot is whole');
    machine.setFaults(file, {});
    volume.abandon();
    ({ volume, live } = await open(false));
    t.ok((await readAll(volume.disk(id), SIZE)).equals(before), 'and whole after a restart');
    await volume.close();
  });
}

for (const onError of ['break-snapshot', 'break-write'] as const) {
  for (const durability of ['process', 'power'] as const) {
    // A copy timed out; the volume is given up and opened again while its write to the store is still on its way.
    // It lands before the new volume has the store, not on a slot that it has filled meanwhile.
    t.test(`a late write hits nobody: ${onError}, ${durability}`, async t => {
      const { machine, before, open } = rig({ timeoutMs: 300, onError, durability });
      let { volume, live } = await open(true);
      await snapshot(volume);
      machine.setFaults(STORE, { writeMs: 1200 });
      await codeOf(live.write(0, filled(SIZE, 2)));
      machine.setFaults(STORE, {});
      volume.abandon();
      ({ volume, live } = await open(false));
      const now = await readAll(live, SIZE);
      t.equal(now.equals(before), onError === 'break-write');
      const id = await snapshot(volume);
      await live.write(0, filled(SIZE, 3));
      await new Promise(resolve => setTimeout(resolve, 1500));
      t.ok((await readAll(volume.disk(id), SIZE)).equals(now));
      t.match(volume.disk(id).defects(), []);
      await volume.close();
    });
  }
}

t.test('an origin that cannot be read breaks what needed it, and passes the write', async t => {
  const { machine, open } = rig();
  const { volume, live } = await open(true);
  const id = await snapshot(volume);
  machine.setFaults(ORIGIN, { readError: EIO });
  await live.write(0, filled(CHUNK, 3));
  t.match(volume.snapshots(), [{ id, state: 'broken', error: 'EIO' }]);
  await volume.close();
});

t.test('an origin that cannot be written tells the writer', async t => {
  const { machine, before, open } = rig();
  const { volume, live } = await open(true);
  const id = await snapshot(volume);
  machine.setFaults(ORIGIN, { writeError: EIO });
  t.equal(await codeOf(live.write(0, filled(CHUNK, 3))), 'EIO');
  machine.setFaults(ORIGIN, {});
  t.ok((await readAll(volume.disk(id), SIZE)).equals(before));
  await volume.close();
});

t.test('a snapshot that does not need the chunk stays whole', async t => {
  const { machine, open } = rig();
  const { volume, live } = await open(true);
  const old = await snapshot(volume);
  const first = await readAll(live, SIZE);
  await live.write(0, filled(SIZE, 2)); // the old one has its copy of everything
  const young = await snapshot(volume);
  machine.setFaults(STORE, { writeError: ENOSPC, after: 0 });
  await live.write(0, filled(512, 3));
  t.match(volume.snapshots(), [
    { id: old, state: 'live' },
    { id: young, state: 'broken' },
  ]);
  t.ok((await readAll(volume.disk(old), SIZE)).equals(first));
  volume.abandon();
});

t.test('low water comes before the store is full', async t => {
  const { events, open } = rig({ limit: 20 * CHUNK, lowWater: 8 * CHUNK });
  const { volume, live } = await open(true);
  await snapshot(volume);
  let told = -1;
  for (let chunk = 0; chunk < 16 && told < 0; chunk++) {
    await live.write(chunk * CHUNK, filled(512, chunk));
    await new Promise(resolve => setImmediate(resolve));
    if (events.length > 0) told = chunk;
  }
  t.match(events, [{ kind: 'low-water' }]);
  t.ok(told >= 4 && told < 16, `after chunk ${told}`);
  t.match(volume.snapshots(), [{ state: 'live' }]);
  await volume.close();
});

t.test('an origin that cannot punch is written with zeros', async t => {
  const { machine, before, open } = rig();
  const { volume, live } = await open(true);
  const id = await snapshot(volume);
  machine.setFaults(ORIGIN, { noPunch: true });
  await live.writeZeroes(100, SIZE - 200, true);
  const expected = Buffer.from(before);
  expected.fill(0, 100, SIZE - 100);
  t.ok((await readAll(live, SIZE)).equals(expected));
  t.ok((await readAll(volume.disk(id), SIZE)).equals(before));
  await volume.close();
});

t.test('damage in the store is an error for its range alone, and never the origin', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'asof-cow-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = (name: string) => join(dir, name);
  const before = filled(SIZE, 1);
  writeFileSync(path('origin'), before);
  const fd = (name: string) => openSync(path(name), name === 'origin' ? 'r+' : 'a+');
  writeFileSync(path('store'), '');
  const store = openSync(path('store'), 'r+');
  const given = {
    size: SIZE,
    chunkSize: CHUNK,
    origin: fd('origin'),
    store,
    tracker: openSync(path('tracker'), 'w+'),
  };
  let { volume, live } = await openVolume(given);
  const id = await snapshot(volume);
  await live.write(0, filled(SIZE, 2));
  const bytes = readFileSync(path('store'));
  // The copy of chunk 3: its content tells where it lies.
  const at = bytes.indexOf(before.subarray(3 * CHUNK, 3 * CHUNK + 4096));
  t.ok(at > 0);
  writeSync(store, Buffer.from([bytes[at + 5000]! ^ 1]), 0, 1, at + 5000);
  const disk = volume.disk(id);
  const into = Buffer.alloc(CHUNK);
  t.equal(await codeOf(disk.read(3 * CHUNK, into)), 'DAMAGED');
  t.equal(await codeOf(disk.read(3 * CHUNK + 4096, into.subarray(0, 512))), 'DAMAGED');
  await disk.read(3 * CHUNK, into.subarray(0, 4096));
  t.ok(into.subarray(0, 4096).equals(before.subarray(3 * CHUNK, 3 * CHUNK + 4096)), 'what matches is given');
  t.match(disk.defects(), [{ why: /checksum/ }]);
  await volume.close();
  // A header that rots hides what the slot held: nothing can be vouched for any more.
  writeSync(store, Buffer.from('garbage'), 0, 7, at - 4096);
  const next = await openVolume({ ...given, create: false });
  ({ volume, live } = next);
  t.match(next.found.broken, /slot \d+ of the store is damaged/);
  t.match(volume.snapshots(), [{ id, state: 'broken' }]);
  t.equal(await codeOf(volume.disk(id).read(0, into)), 'DAMAGED');
  await volume.delete(id);
  await volume.close();
  const again = await openVolume({ ...given, create: false });
  t.equal(again.found.broken, '', 'it is said once');
  await again.volume.close();
});

t.test('a file system that is full breaks the snapshot, not the volume', async t => {
  const { machine, open } = rig();
  machine.setFaults(STORE, { capacity: 400_000 });
  const { volume, live } = await open(true);
  const id = await snapshot(volume);
  await live.write(0, filled(SIZE, 2));
  t.match(volume.snapshots(), [{ id, state: 'broken', error: 'ENOSPC' }]);
  await volume.close();
});

t.test('policy process does not outlast another boot', async t => {
  const { open, given } = rig();
  const { volume, live } = await open(true);
  const id = await snapshot(volume);
  await live.write(0, filled(SIZE, 2));
  volume.abandon();
  const next = await openVolume({ ...given, create: false, bootId: '99999999-2222-4333-8444-555555555555' });
  t.match(next.found.broken, /the machine stopped/);
  t.match(next.volume.snapshots(), [{ id, state: 'broken' }]);
  await next.volume.close();
});

t.test('a store of another volume, another shape or no store at all is refused in words', async t => {
  const { given, open, machine } = rig();
  const { volume } = await open(true);
  await volume.close();
  await t.rejects(openVolume({ ...given, volume: '11234567-89ab-4cde-8f01-23456789abcd' }), {
    message: /belongs to volume/,
  });
  await t.rejects(openVolume({ ...given, chunkSize: 4096 }), { message: /chunks of 65536 bytes, not 4096/ });
  await t.rejects(openVolume({ ...given, size: SIZE - 512 }), { message: /of a volume of/ });
  machine.setBytes(STORE, Buffer.alloc(8192, 7));
  await t.rejects(openVolume(given), { message: /not a copy-on-write store/ });
  await t.rejects(openVolume({ ...given, size: SIZE * 2 }), { message: /the origin has/ });
});

t.test('deleted space comes back', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'asof-cow-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const origin = openSync(join(dir, 'origin'), 'w+');
  truncateSync(join(dir, 'origin'), SIZE);
  const store = openSync(join(dir, 'store'), 'w+');
  const { volume, live } = await openVolume({ size: SIZE, chunkSize: CHUNK, origin, store });
  const held = () => statSync(join(dir, 'store')).blocks * 512;
  const ids = [];
  for (let i = 0; i < 3; i++) {
    ids.push(await snapshot(volume));
    await live.write(0, filled(SIZE, i + 1));
  }
  const full = held();
  const size = statSync(join(dir, 'store')).size;
  t.ok(full >= 3 * SIZE);
  await volume.delete(ids[1]!);
  t.ok(held() <= full - SIZE, 'the middle one gave back its chunks');
  t.ok((await readAll(volume.disk(ids[0]!), SIZE)).equals(Buffer.alloc(SIZE)));
  t.ok((await readAll(volume.disk(ids[2]!), SIZE)).equals(filled(SIZE, 2)));
  await snapshot(volume);
  await live.write(0, filled(SIZE, 9));
  t.ok(statSync(join(dir, 'store')).size <= size, 'the slots are used again');
  await volume.close();
});

t.test('ten thousand writes of one chunk grow the store by one chunk', async t => {
  const { open } = rig({ store: null });
  const { volume, live } = await open(true);
  await snapshot(volume);
  const before = volume.activity().storeUsed;
  for (let i = 0; i < 10_000; i += 100) {
    await Promise.all(
      Array.from({ length: 100 }, (_, k) => live.write(((i + k) * 512) % CHUNK, filled(512, i + k))),
    );
  }
  t.equal(volume.activity().storeUsed - before, CHUNK + 4096);
  t.match(volume.activity(), { preserved: 1, copies: 1, firstWrites: 1, writes: 10_000 });
  await volume.close();
  t.equal(await codeOf(live.write(0, Buffer.alloc(512))), 'ESHUTDOWN');
});
