/**
 * Policy `process`: a process that writes under load is killed at random moments. Afterwards every snapshot whose taking
 * was reported is exact, and what was deleted stays so.
 *
 * The child writes sectors that carry a stamp and reports, on standard output, each snapshot with a digest of what its
 * model says; it takes them while its writers rest, so that the digest is the truth.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { CowVolume, openVolume, randomOf, readAll } from './rig.js';

const SIZE = 4 << 20;
const KILLS = Number(process.env['ASOF_COW_KILLS'] ?? 12);

async function open(dir: string, create: boolean) {
  const [origin, store, tracker] = ['origin', 'store', 'tracker'].map(name =>
    openSync(join(dir, name), 'r+'),
  );
  const opened = await openVolume({ size: SIZE, origin: origin!, store: store!, tracker: tracker!, create });
  for (const fd of [origin, store, tracker]) closeSync(fd!); // the engine has its own
  return opened;
}

const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

async function child(dir: string, seed: number): Promise<void> {
  const { volume, live } = await open(dir, false);
  const random = randomOf(seed);
  const model = await readAll(live, SIZE);
  const ids = volume.snapshots().map(each => each.id);
  for (let round = 0; ; round++) {
    const id = randomUUID();
    await CowVolume.snapshot([{ volume, id }], randomUUID(), 10_000);
    ids.push(id);
    process.stdout.write(`took ${id} ${digest(model)}\n`);
    if (ids.length > 4) {
      const [gone] = ids.splice(random(ids.length - 1), 1);
      process.stdout.write(`deleting ${gone}\n`);
      await volume.delete(gone!);
      process.stdout.write(`deleted ${gone}\n`);
    }
    // Each of the four has a quarter, so that the model does not depend on who is first.
    await Promise.all(
      Array.from({ length: 4 }, async (_, lane) => {
        for (let i = 0; i < 8; i++) {
          const offset = lane * (SIZE / 4) + random(SIZE / 4 / 512 - 200) * 512;
          const bytes = Buffer.alloc((1 + random(200)) * 512, random(255) + 1);
          bytes.writeUInt32LE(round, 0);
          bytes.copy(model, offset);
          if (random(8) === 0) {
            model.fill(0, offset, offset + bytes.length);
            await live.writeZeroes(offset, bytes.length, true);
          } else await live.write(offset, bytes);
        }
      }),
    );
  }
}

async function lines(running: ChildProcess, ms: number): Promise<string[]> {
  let text = '';
  running.stdout!.setEncoding('utf8').on('data', chunk => {
    text += chunk;
  });
  const ended = new Promise<void>(resolve => running.once('close', () => resolve()));
  // The clock starts with the first report, or a slow start would be all that is killed.
  while (!text.includes('took') && running.exitCode === null)
    await new Promise(resolve => setTimeout(resolve, 5));
  await new Promise(resolve => setTimeout(resolve, ms));
  running.kill('SIGKILL');
  await ended;
  return text
    .slice(0, text.lastIndexOf('\n') + 1)
    .split('\n')
    .filter(Boolean);
}

if (process.argv[2] === 'child') {
  await child(process.argv[3]!, Number(process.argv[4]));
} else {
  t.test('snapshots outlast SIGKILL', async t => {
    const dir = mkdtempSync(join(tmpdir(), 'asof-cow-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    for (const name of ['origin', 'store', 'tracker']) writeFileSync(join(dir, name), '');
    truncateSync(join(dir, 'origin'), SIZE);
    const made = await open(dir, true);
    await made.volume.close();
    const random = randomOf(99);
    const expected = new Map<string, string>();
    let compared = 0;
    let torn = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const running = spawn(process.execPath, [fileURLToPath(import.meta.url), 'child', dir, String(kill)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const maybe = new Set<string>();
      const gone = new Set<string>();
      for (const line of await lines(running, random(150))) {
        const [what, id, sum] = line.split(' ');
        if (what === 'took') expected.set(id!, sum!);
        else if (what === 'deleting') maybe.add(id!);
        else gone.add(id!);
      }
      const { volume, found } = await open(dir, false);
      torn += found.torn;
      if (found.broken !== '' || found.damaged !== 0 || found.tracking !== '')
        throw new Error(`kill ${kill}: ${JSON.stringify(found)}`);
      const listed = volume.snapshots();
      for (const [id, sum] of expected) {
        const one = listed.find(each => each.id === id);
        if (gone.has(id) && one) throw new Error(`kill ${kill}: ${id} was deleted and is back`);
        if (!one && (gone.has(id) || maybe.has(id))) {
          expected.delete(id);
          continue;
        }
        if (one?.state !== 'live')
          throw new Error(`kill ${kill}: snapshot ${id} is ${one?.state ?? 'gone'} ${one?.why}`);
        if (digest(await readAll(volume.disk(id), SIZE)) !== sum)
          throw new Error(`kill ${kill}: snapshot ${id} differs`);
        compared++;
      }
      // One that was taken and not yet reported has no digest to compare with.
      for (const each of listed) if (!expected.has(each.id)) await volume.delete(each.id);
      await volume.close();
    }
    t.ok(compared > KILLS, `${compared} snapshots compared after ${KILLS} kills, ${torn} copies cut short`);
  });
}
