/**
 * The plug is pulled while a layer is written: whatever of the unsynced sectors a disk may keep, in any order, each sector of
 * the overlay has what was flushed last, or something written since; and the layer opens.
 *
 * Each write stamps its sectors with a number of its own, so that what is found says which write it came from. The last test
 * takes the syncs away and expects to be caught.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { NativeCowMachine } from '../../src/native.js';
import { baseOf, CowMachine, codeOf, keptOn, randomOf } from './rig.js';

t.setTimeout(600_000);

const SECTOR = 512;
const SIZE = 512 * 1024;
const SECTORS = SIZE / SECTOR;
const CUTS = Number(process.env['ASOF_OVERLAY_CUTS'] ?? 250);
const BELOW = 1;

const folder = mkdtempSync(join(tmpdir(), 'asof-overlay-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const stamped = (length: number, stamp: number) => {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 4) bytes.writeUInt32LE(stamp, at);
  return bytes;
};
const base = baseOf(folder, stamped(SIZE, BELOW));
t.teardown(() => base.close());

/** What the cuts of one machine contradict; '' where all is well. */
async function lives(seed: number, sabotage = false): Promise<string> {
  const random = randomOf(seed);
  let machine: NativeCowMachine = new CowMachine([0]);
  // Of each sector, what it may hold: what was flushed last, and what was written since.
  let may = Array.from({ length: SECTORS }, () => [BELOW]);
  let stamp = BELOW;
  let overlay = await keptOn(base, { machine, file: 0 }, { create: true });
  if (sabotage) machine.setFaults(0, { dropSync: true });
  for (let life = 0; life < 3; life++) {
    const disk = overlay.disk();
    const change = (): Promise<void> => {
      const first = random(SECTORS);
      const count = Math.min(SECTORS - first, 1 + random(random(4) === 0 ? 100 : 12));
      const zero = random(4) === 0;
      const now = zero ? 0 : ++stamp;
      for (let i = first; i < first + count; i++) may[i]!.push(now);
      return zero
        ? disk.writeZeroes(first * SECTOR, count * SECTOR, true)
        : disk.write(first * SECTOR, stamped(count * SECTOR, now));
    };
    const steps = random(25);
    for (let step = 0; step < steps; step++) {
      if (random(5) > 0) await change();
      else {
        await disk.flush();
        may = may.map(values => values.slice(-1));
      }
    }
    // A flush and some writes are under way, or only just acknowledged, when it goes dark.
    const underWay: Promise<unknown>[] = [];
    if (random(2) === 0) underWay.push(codeOf(disk.flush()));
    for (let i = random(4); i > 0; i--) underWay.push(codeOf(change()));
    if (random(3) === 0) underWay.push(codeOf(disk.flush()));
    if (underWay.length > 0 && random(2) === 0) await Promise.race(underWay);
    machine = machine.cut(random(2 ** 31));
    await Promise.all(underWay);
    await codeOf(overlay.close());
    try {
      overlay = await keptOn(base, { machine, file: 0 });
    } catch (error) {
      return `life ${life}: ${(error as Error).message}`;
    }
    if (sabotage) machine.setFaults(0, { dropSync: true });
    const all = Buffer.alloc(SIZE);
    await overlay.disk().read(0, all);
    for (let sector = 0; sector < SECTORS; sector++) {
      const found = all.readUInt32LE(sector * SECTOR);
      for (let at = 4; at < SECTOR; at += 4) {
        if (all.readUInt32LE(sector * SECTOR + at) !== found)
          return `life ${life}: sector ${sector} is mixed`;
      }
      if (!may[sector]!.includes(found))
        return `life ${life}: sector ${sector} has ${found}, and may have ${may[sector]}`;
      // What survived a cut is stable.
      may[sector] = [found];
    }
  }
  await overlay.close();
  return '';
}

t.test('what was flushed is there', async t => {
  let wrong = '';
  for (let seed = 1; seed <= CUTS && wrong === ''; seed++) {
    wrong = await lives(seed);
    if (wrong !== '') wrong = `seed ${seed}: ${wrong}`;
  }
  t.equal(wrong, '', `${CUTS} machines, three cuts each`);
  t.ok(base.unchanged());
});

t.test('without syncs it would not be', async t => {
  let caught = 0;
  for (let seed = 1; seed <= 20; seed++) if ((await lives(seed, true)) !== '') caught++;
  t.ok(caught > 0, `${caught} of 20 machines that sync nothing are caught`);
});
