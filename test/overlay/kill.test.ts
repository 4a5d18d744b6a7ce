/**
 * SIGKILL at random moments while a layer is written: it opens again, what was flushed is there, and each sector has what was
 * flushed last or was written since.
 *
 * The child writes sectors that carry a number, and says on standard output which flush has been acknowledged.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { emptyBase, keptOn, randomOf } from './rig.js';

const SECTOR = 512;
/** Over several pages of the map; what is written lies in a few places of them. */
const SIZE = 400 << 20;
const PLACES = 12;
const PLACE = 24 * SECTOR;
const KILLS = 8;

const placeAt = (place: number) => place * Math.floor(SIZE / PLACES / 4096) * 4096;

/** The writes of a life, in order: the child makes them, and the test knows them by the seed. */
function* writes(seed: number): Generator<{ place: number; sector: number; count: number; stamp: number }> {
  const random = randomOf(seed);
  for (let i = 1; ; i++) {
    const sector = random(24);
    yield { place: random(PLACES), sector, count: 1 + random(24 - sector), stamp: seed * 100_000 + i };
  }
}

async function child(path: string, seed: number): Promise<void> {
  const base = emptyBase(SIZE);
  const overlay = await keptOn(base, path);
  const disk = overlay.disk();
  let done = 0;
  process.stdout.write('ready\n');
  for (const { place, sector, count, stamp } of writes(seed)) {
    const bytes = Buffer.alloc(count * SECTOR);
    for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(stamp, at);
    await disk.write(placeAt(place) + sector * SECTOR, bytes);
    done++;
    if (done % 7 !== 0) continue;
    await disk.flush();
    process.stdout.write(`flushed ${done}\n`);
  }
}

async function lifeOf(running: ChildProcess, ms: number): Promise<number> {
  let text = '';
  running.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  const ended = new Promise<void>(resolve => running.once('close', () => resolve()));
  while (!text.includes('flushed') && running.exitCode === null)
    await new Promise(resolve => setTimeout(resolve, 5));
  await new Promise(resolve => setTimeout(resolve, ms));
  running.kill('SIGKILL');
  await ended;
  const said = text
    .slice(0, text.lastIndexOf('\n'))
    .split('\n')
    .filter(line => line.startsWith('flushed'));
  return Number(said.at(-1)?.split(' ')[1] ?? 0);
}

if (process.argv[2] === 'child') {
  await child(process.argv[3]!, Number(process.argv[4]));
} else {
  t.test('what was flushed outlasts SIGKILL', async t => {
    const folder = mkdtempSync(join(tmpdir(), 'asof-overlay-'));
    t.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const path = join(folder, 'layer');
    const base = emptyBase(SIZE);
    t.teardown(() => base.close());
    await (await keptOn(base, path, { create: true })).close();
    const random = randomOf(4242);
    let now = Array.from({ length: PLACES }, () => new Array<number>(24).fill(0));
    let flushes = 0;
    for (let kill = 1; kill <= KILLS; kill++) {
      const self = fileURLToPath(import.meta.url);
      const running = spawn(process.execPath, [self, 'child', path, String(kill)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const flushed = await lifeOf(running, random(120));
      flushes += flushed;
      const overlay = await keptOn(base, path);
      // Of the later writes no more than those up to the next report can have been under way.
      const may = now.map(sectors => sectors.map(value => new Set([value])));
      let count = 0;
      for (const write of writes(kill)) {
        if (count++ >= flushed + 50) break;
        for (let i = write.sector; i < write.sector + write.count; i++) {
          const values = may[write.place]![i]!;
          if (count <= flushed) values.clear();
          values.add(write.stamp);
        }
      }
      now = [];
      for (let place = 0; place < PLACES; place++) {
        const into = Buffer.alloc(PLACE);
        await overlay.disk().read(placeAt(place), into);
        now.push(Array.from({ length: 24 }, (_, sector) => into.readUInt32LE(sector * SECTOR)));
        for (const [sector, value] of now[place]!.entries()) {
          const whole = into.subarray(sector * SECTOR, (sector + 1) * SECTOR);
          for (let at = 0; at < SECTOR; at += 4) {
            if (whole.readUInt32LE(at) !== value) throw new Error(`kill ${kill}: sector ${sector} is mixed`);
          }
          if (!may[place]![sector]!.has(value)) {
            throw new Error(`kill ${kill}: sector ${sector} of place ${place} has ${value}`);
          }
        }
      }
      await overlay.close();
    }
    t.ok(flushes > 0, `${KILLS} kills, ${flushes} writes flushed before them`);
  });
}
