/**
 * What changed since when: exact while the volume runs and over a clean stop, never less than the truth after a hard one,
 * and "everything, because …" where nothing is known.
 */
import t from 'tap';
import { CowMachine, epochOf, filled, openVolume, randomOf, snapshot } from './rig.js';

const CHUNK = 4096;
const REGION = 16 * CHUNK;
const SIZE = 1024 * CHUNK + 512;
const ORIGIN = 0;
const STORE = 1;
const TRACKER = 2;

function rig(machine = new CowMachine([SIZE, 0, 0])) {
  const given = {
    size: SIZE,
    chunkSize: CHUNK,
    regionSize: REGION,
    origin: { machine, file: ORIGIN },
    store: { machine, file: STORE },
    tracker: { machine, file: TRACKER },
  };
  return { machine, given };
}

function chunksOf(runs: Float64Array): Set<number> {
  const chunks = new Set<number>();
  for (let i = 0; i < runs.length; i += 2) {
    for (let at = runs[i]!; at < runs[i]! + runs[i + 1]!; at += CHUNK) chunks.add(at / CHUNK);
  }
  return chunks;
}

const sorted = (set: Iterable<number>) => [...set].sort((x, y) => x - y);

t.test('exact between any two snapshots, and over clean stops', async t => {
  const { given } = rig();
  let { volume, live } = await openVolume(given);
  const random = randomOf(3);
  const written: Set<number>[] = [];
  const ids: string[] = [];
  for (let interval = 0; interval < 8; interval++) {
    ids.push(await snapshot(volume));
    const set = new Set<number>();
    for (let i = 0; i < 30; i++) {
      const chunk = random(1025);
      set.add(chunk);
      await live.write(chunk * CHUNK, filled(512, i));
    }
    written.push(set);
    if (interval % 3 === 2) {
      await volume.close();
      const next = await openVolume({ ...given, create: false });
      t.match(next.found, { clean: true, tracking: '' });
      ({ volume, live } = next);
    }
  }
  const epochs = ids.map(id => epochOf(volume, id));
  for (let from = 0; from < ids.length; from++) {
    const now = await volume.changes(epochs[from]!, 0);
    t.equal(now.exact, true);
    t.same(sorted(chunksOf(now.runs)), sorted(new Set(written.slice(from).flatMap(set => [...set]))));
    for (let to = from + 1; to < ids.length; to++) {
      const between = await volume.changes(epochs[from]!, epochs[to]!);
      t.same(
        sorted(chunksOf(between.runs)),
        sorted(new Set(written.slice(from, to).flatMap(set => [...set]))),
      );
    }
  }
  // Without their copies too: the epochs of deleted snapshots are answered for.
  for (const id of ids) await volume.delete(id);
  const late = await volume.changes(epochs[5]!, 0);
  t.same(sorted(chunksOf(late.runs)), sorted(new Set(written.slice(5).flatMap(set => [...set]))));
  await volume.close();
});

t.test('a hard stop misses nothing and says so', async t => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = randomOf(seed);
    let { machine, given } = rig();
    const power = seed % 2 === 0;
    const shape = { ...given, durability: power ? ('power' as const) : ('process' as const) };
    let { volume, live } = await openVolume(shape);
    let base = -1;
    let written = new Set<number>();
    const write = async () => {
      const chunk = random(1025);
      written.add(chunk);
      await live.write(chunk * CHUNK, filled(512, chunk));
    };
    for (let life = 0; life < 4; life++) {
      for (let i = random(12); i > 0; i--) await write();
      if (base < 0 || random(2) === 0) {
        const id = await snapshot(volume);
        base = epochOf(volume, id);
        written = new Set();
        for (let i = random(12); i > 0; i--) await write();
        // What the copies said must not be lost with them.
        if (random(2) === 0) await volume.delete(id);
        for (let i = random(12); i > 0; i--) await write();
      }
      const clean = random(3) === 0;
      if (clean) await volume.close();
      if (power && !clean) machine = machine.cut(seed * 8 + life);
      if (!clean) volume.abandon();
      given = rig(machine).given;
      const next = await openVolume({ ...shape, ...given, create: false });
      ({ volume, live } = next);
      if (next.found.tracking !== '' || next.found.clean !== clean)
        throw new Error(`seed ${seed}: ${JSON.stringify(next.found)}`);
      const { runs, exact } = await volume.changes(base, 0);
      const changed = chunksOf(runs);
      for (const chunk of written) {
        if (!changed.has(chunk)) throw new Error(`seed ${seed}: chunk ${chunk} is missing in life ${life}`);
      }
      for (const chunk of changed) {
        if (written.has(chunk)) continue;
        if (exact)
          throw new Error(`seed ${seed}: chunk ${chunk} is not changed, and the answer is said to be exact`);
      }
    }
    volume.abandon();
  }
  t.pass('40 volumes, 4 lives each');
});

t.test('a tracker that is lost, damaged, old or not kept means unknown', async t => {
  const { machine, given } = rig();
  let { volume, live } = await openVolume(given);
  const id = await snapshot(volume);
  const epoch = epochOf(volume, id);
  await live.write(0, filled(512, 1));
  await volume.close();
  const sound = Buffer.from(machine.bytes(TRACKER));
  const unknown = async (tracker: Buffer, why: RegExp) => {
    machine.setBytes(TRACKER, tracker);
    const next = await openVolume({ ...given, create: false });
    t.match(next.found.tracking, why);
    const changes = await next.volume.changes(epoch, 0);
    t.match(changes, { exact: false, why });
    t.same([...changes.runs], [0, SIZE]);
    // What happens from here on is known again.
    const later = await snapshot(next.volume);
    await next.live.write(5 * CHUNK, filled(512, 2));
    t.same([...(await next.volume.changes(epochOf(next.volume, later), 0)).runs], [5 * CHUNK, CHUNK]);
    await next.volume.close();
  };
  await unknown(Buffer.alloc(0), /is empty/);
  const damaged = Buffer.from(sound);
  damaged.fill(0xff, 0, 8192);
  await unknown(damaged, /damaged/);
  await unknown(sound, /not of the same time/);
  const next = await openVolume({ ...given, tracker: null, create: false });
  t.match(next.found.tracking, /no tracker/);
  ({ volume, live } = next);
  await volume.close();
});

t.test('distrust breaks the snapshots and forgets what was known', async t => {
  const { given } = rig();
  let { volume } = await openVolume(given);
  const id = await snapshot(volume);
  const epoch = epochOf(volume, id);
  await volume.distrust('somebody else wrote to the origin');
  t.match(volume.snapshots(), [{ id, state: 'broken', why: 'somebody else wrote to the origin' }]);
  t.match(await volume.changes(epoch, 0), { exact: false, why: 'somebody else wrote to the origin' });
  await volume.close();
  ({ volume } = await openVolume({ ...given, create: false }));
  t.match(await volume.changes(epoch, 0), { exact: false, why: 'somebody else wrote to the origin' });
  await volume.close();
});

t.test('a tracker that cannot be written stops neither the volume nor the truth', async t => {
  const { machine, given } = rig();
  const { volume, live } = await openVolume(given);
  const id = await snapshot(volume);
  const epoch = epochOf(volume, id);
  await volume.delete(id);
  machine.setFaults(TRACKER, { writeError: 28 });
  await live.write(0, filled(512, 1));
  t.same([...(await volume.changes(epoch, 0)).runs], [0, CHUNK]);
  machine.setFaults(TRACKER, {});
  volume.abandon();
  const next = await openVolume({ ...given, create: false });
  t.match(await next.volume.changes(epoch, 0), { exact: false });
  t.same([...(await next.volume.changes(epoch, 0)).runs], [0, SIZE]);
  await next.volume.close();
});

// A preserved copy stands for the note that its chunk was written. Its snapshot is deleted, or breaks, and the process dies
// before there is a note instead: the start that frees the copy must not forget what it said.
t.test('a copy that nobody needs any more still tells that its chunk was written', async t => {
  const { machine, given } = rig();
  const { volume, live } = await openVolume({ ...given, durability: 'power' });
  const id = await snapshot(volume);
  const epoch = epochOf(volume, id);
  await live.write(7 * CHUNK, filled(512, 1));
  machine.setFaults(TRACKER, { hang: true });
  const deleting = volume.delete(id).catch(() => {});
  while (volume.snapshots().length > 0) await new Promise(resolve => setImmediate(resolve));
  let after = machine.cut(1);
  await deleting;
  volume.abandon();
  for (let start = 0; start < 3; start++) {
    const next = await openVolume({ ...rig(after).given, durability: 'power', create: false });
    t.match(next.found, { clean: false, broken: '', tracking: '' });
    t.same(next.volume.snapshots(), []);
    const { runs } = await next.volume.changes(epoch, 0);
    t.ok(chunksOf(runs).has(7), `start ${start + 1}`);
    next.volume.abandon();
    after = after.cut(start);
  }
});
