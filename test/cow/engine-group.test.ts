/**
 * One moment over several volumes: a writer writes number n to A and, when that has ended, to B, again and again. No
 * snapshot of both may hold an n of B without A's being at least that; over hundreds of them, under load.
 */
import { randomUUID } from 'node:crypto';
import t from 'tap';
import { CowMachine, CowVolume, codeOf, openVolume } from './rig.js';

const SIZE = 1 << 20;
const GROUPS = Number(process.env['ASOF_COW_GROUPS'] ?? 300);

t.test('B never without A', async t => {
  const machine = new CowMachine([SIZE, SIZE, SIZE, SIZE]);
  const given = (file: number) => ({
    size: SIZE,
    chunkSize: 4096,
    volume: `01234567-89ab-4cde-8f01-23456789ab0${file}`,
    origin: { machine, file },
  });
  const a = await openVolume(given(0));
  const b = await openVolume(given(1));
  let stop = false;
  let written = 0;
  // Two writers, each with a lane of its own; numbers move over the lane, so that first writes are frequent.
  const writer = async (lane: number) => {
    const sector = Buffer.alloc(512);
    for (let n = 1; !stop; n++) {
      sector.writeUInt32LE(n, 0);
      const offset = lane * 65536;
      await a.live.write(offset + (n % 128) * 512, sector);
      await b.live.write(offset + (n % 128) * 512, sector);
      written = n;
    }
  };
  const writers = [writer(0), writer(1)];
  const highest = async (disk: { read(offset: number, into: Uint8Array): Promise<void> }, lane: number) => {
    const bytes = Buffer.alloc(65536);
    await disk.read(lane * 65536, bytes);
    let most = 0;
    for (let at = 0; at < bytes.length; at += 512) most = Math.max(most, bytes.readUInt32LE(at));
    return most;
  };
  let moved = 0;
  let last = -1;
  let longest = 0;
  for (let group = 0; group < GROUPS; group++) {
    const ids = [randomUUID(), randomUUID()] as const;
    const taken = await CowVolume.snapshot(
      [
        { volume: a.volume, id: ids[0] },
        { volume: b.volume, id: ids[1] },
      ],
      randomUUID(),
      10_000,
    );
    longest = Math.max(longest, taken.holdNs);
    for (const lane of [0, 1]) {
      const inA = await highest(a.volume.disk(ids[0]), lane);
      const inB = await highest(b.volume.disk(ids[1]), lane);
      if (inB > inA || inA > inB + 1) throw new Error(`group ${group}: A has ${inA}, B has ${inB}`);
      if (lane === 0 && inA !== last) moved++;
      if (lane === 0) last = inA;
    }
    if (group % 8 !== 0) {
      await a.volume.delete(ids[0]);
      await b.volume.delete(ids[1]);
    }
  }
  stop = true;
  await Promise.all(writers);
  t.ok(moved > GROUPS / 4, `the writers moved between ${moved} of ${GROUPS} snapshots, ${written} writes`);
  t.comment(`longest hold ${Math.round(longest / 1000)} µs`);
  await a.volume.close();
  await b.volume.close();
});

t.test('a group that cannot be held in time takes nothing', async t => {
  const machine = new CowMachine([SIZE, SIZE]);
  const one = await openVolume({ size: SIZE, origin: { machine, file: 0 } });
  const two = await openVolume({ size: SIZE, origin: { machine, file: 1 } });
  machine.setFaults(1, { hang: true });
  const stuck = two.live.write(0, Buffer.alloc(512));
  const ask = (timeoutMs: number) =>
    CowVolume.snapshot(
      [
        { volume: one.volume, id: randomUUID() },
        { volume: two.volume, id: randomUUID() },
      ],
      randomUUID(),
      timeoutMs,
    );
  while (two.volume.activity().firstWrites === 0) await new Promise(resolve => setImmediate(resolve));
  t.equal(await codeOf(ask(50)), 'ETIMEDOUT');
  t.same(one.volume.snapshots(), []);
  await one.live.write(0, Buffer.alloc(512)); // its gate is open again
  machine.setFaults(1, {});
  await stuck;
  t.equal(await codeOf(ask(10_000)), '');
  t.match(one.volume.snapshots(), [{ groupSize: 2, state: 'live' }]);
  t.throws(
    () =>
      CowVolume.snapshot(
        [
          { volume: one.volume, id: randomUUID() },
          { volume: one.volume, id: randomUUID() },
        ],
        randomUUID(),
        1,
      ),
    { code: 'EINVAL' },
  );
  await one.volume.close();
  await two.volume.close();
  t.equal(await codeOf(codeOfThrow(ask)), 'ESHUTDOWN');
});

async function codeOfThrow(ask: (timeoutMs: number) => Promise<unknown>): Promise<unknown> {
  return ask(1);
}
