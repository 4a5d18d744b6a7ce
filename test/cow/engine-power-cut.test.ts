/**
 * The plug is pulled, thousands of times: whatever of the unsynced sectors a disk may keep, in any order, torn, the
 * origin holds every acknowledged flush, and each snapshot is exact or says that it is invalid.
 *
 * The oracle is in the sectors: each write stamps its 512-byte sectors with its own number, so that what a sector holds
 * after a cut says which write it came from. The last tests take one sync away and expect to be caught.
 */
import { randomUUID } from 'node:crypto';
import t from 'tap';
import type { CowDurability, NativeCowMachine } from '../../src/native.js';
import { CowMachine, CowVolume, codeOf, openVolume, randomOf, snapshot } from './rig.js';

const SECTOR = 512;
const SIZE = 512 * 1024;
const CHUNK = 16384;
const ORIGIN = 0;
const STORE = 1;
const TRACKER = 2;

interface Point {
  readonly id: string;
  readonly stamps: Uint32Array;
}

/** What one cut contradicts; '' where all is well. */
async function cutOnce(seed: number, sabotage?: (machine: NativeCowMachine) => void): Promise<string> {
  const random = randomOf(seed);
  const durability: CowDurability = 'power';
  let machine: NativeCowMachine = new CowMachine([SIZE, 0, 0]);
  const files = () => ({
    origin: { machine, file: ORIGIN },
    store: { machine, file: STORE },
    tracker: { machine, file: TRACKER },
  });
  const shape = { size: SIZE, chunkSize: CHUNK, regionSize: 65536, durability };
  let { volume, live } = await openVolume({ ...shape, ...files() });
  sabotage?.(machine);

  // For each sector: the stamp it has now, the one that the last flush made sure of, all that may be there.
  const now = new Uint32Array(SIZE / SECTOR);
  const flushed = new Uint32Array(SIZE / SECTOR);
  let points: Point[] = [];
  const deleted: string[] = [];
  let stamp = 0;

  const write = async (offset: number, length: number) => {
    stamp++;
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; at += 4) bytes.writeUInt32LE(stamp, at);
    now.fill(stamp, offset / SECTOR, (offset + length) / SECTOR);
    await live.write(offset, bytes);
  };
  const check = async (): Promise<string> => {
    const bytes = Buffer.alloc(SIZE);
    await live.read(0, bytes);
    for (let sector = 0; sector < now.length; sector++) {
      const first = bytes.readUInt32LE(sector * SECTOR);
      for (let at = 4; at < SECTOR; at += 4) {
        if (bytes.readUInt32LE(sector * SECTOR + at) !== first) return `sector ${sector} is mixed`;
      }
      if (first < flushed[sector]! || first > now[sector]!) {
        return `sector ${sector} has stamp ${first}, flushed ${flushed[sector]}, written ${now[sector]}`;
      }
    }
    const listed = volume.snapshots();
    for (const id of deleted) {
      if (listed.some(each => each.id === id)) return `deleted snapshot ${id} is back`;
    }
    for (const point of points) {
      const found = listed.find(each => each.id === point.id);
      if (!found) return `snapshot ${point.id} is gone`;
      if (found.state === 'broken') continue;
      const code = await codeOf(volume.disk(point.id).read(0, bytes));
      if (code !== '')
        return `snapshot cannot be read: ${code} ${JSON.stringify(volume.disk(point.id).defects())}`;
      for (let at = 0; at < SIZE; at += 4) {
        if (bytes.readUInt32LE(at) !== point.stamps[Math.floor(at / SECTOR)]) {
          return `snapshot has ${bytes.readUInt32LE(at)} at ${at}, not ${point.stamps[Math.floor(at / SECTOR)]}`;
        }
      }
    }
    return '';
  };

  for (let life = 0; life < 3; life++) {
    const steps = 5 + random(25);
    for (let step = 0; step < steps; step++) {
      const what = random(100);
      if (what < 65) {
        const offset = random(SIZE / SECTOR) * SECTOR;
        const length = Math.min(SIZE - offset, (1 + random(random(4) === 0 ? 100 : 10)) * SECTOR);
        await write(offset, length);
      } else if (what < 75) {
        await live.flush();
        flushed.set(now);
      } else if (what < 92) {
        const id = await snapshot(volume);
        points.push({ id, stamps: now.slice() });
        flushed.set(now);
      } else if (points.length > 0) {
        const [gone] = points.splice(random(points.length), 1);
        await volume.delete(gone!.id);
        deleted.push(gone!.id);
      }
    }
    // Some writes, a snapshot and a delete are under way when it goes dark. They write apart from each other, so that
    // the order in which they end does not matter.
    const underWay: Promise<unknown>[] = [];
    const pieces = SIZE / 8;
    for (let piece = 0; piece < 8; piece += 1 + random(4)) {
      const offset = piece * pieces + random(pieces / SECTOR / 2) * SECTOR;
      underWay.push(codeOf(write(offset, (1 + random(40)) * SECTOR)));
    }
    let dying: Point | undefined;
    if (points.length > 1 && random(3) === 0) {
      [dying] = points.splice(0, 1);
      underWay.push(codeOf(volume.delete(dying!.id)));
    }
    if (random(3) === 0)
      underWay.push(codeOf(CowVolume.snapshot([{ volume, id: randomUUID() }], randomUUID(), 1000)));
    for (let i = random(6); i > 0; i--) await new Promise(resolve => setImmediate(resolve));
    machine = machine.cut(seed * 16 + life);
    await Promise.all(underWay);
    volume.abandon();
    const next = await openVolume({ ...shape, ...files(), create: life === 0 && false });
    ({ volume, live } = next);
    if (next.found.broken !== '') return `all broken: ${next.found.broken}`;
    const wrong = await check();
    if (wrong !== '') return wrong;
    // The next life starts from what is there.
    const bytes = Buffer.alloc(SIZE);
    await live.read(0, bytes);
    for (let sector = 0; sector < now.length; sector++) now[sector] = bytes.readUInt32LE(sector * SECTOR);
    await live.flush();
    flushed.set(now);
    points = points.filter(point => volume.snapshots().find(each => each.id === point.id)?.state === 'live');
    for (const each of volume.snapshots()) {
      if (!points.some(point => point.id === each.id)) await volume.delete(each.id);
    }
  }
  volume.abandon();
  return '';
}

const SECONDS = Number(process.env['ASOF_COW_CUT_SECONDS'] ?? 15);
const FIRST = Number(process.env['ASOF_COW_CUT_SEED'] ?? 1);

t.test('every flush and every snapshot outlasts a power cut', async t => {
  const end = Date.now() + SECONDS * 1000;
  let cuts = 0;
  for (let seed = FIRST; Date.now() < end || cuts < 30; seed++) {
    const wrong = await cutOnce(seed);
    if (wrong !== '') {
      t.fail(`seed ${seed}: ${wrong}`);
      return;
    }
    cuts += 3;
  }
  t.ok(cuts >= 30, `${cuts} cuts`);
});

for (const [name, file] of [
  ['origin', ORIGIN],
  ['store', STORE],
] as const) {
  t.test(`the test notices when the ${name}'s syncs do nothing`, async t => {
    let noticed = '';
    for (let seed = 1; seed < 200 && noticed === ''; seed++) {
      noticed = await cutOnce(seed, machine => machine.setFaults(file, { dropSync: true })).catch(error =>
        String(error),
      );
    }
    t.not(noticed, '', 'a sync that lies is found out');
    t.comment(noticed);
  });
}
