/**
 * One flipped bit, wherever in the files of a history, is found, or nobody can ever meet it: then every point still holds
 * its bytes. A flip between writing and the proof stops the backup. What is found is stored again by the next one.
 */
import { closeSync, openSync, readdirSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { History } from '../../src/image/history.js';
import { keepResult } from '../../src/image/verification.js';
import { Lab, random, readAt, readPoint, scratch, verifyAll } from './history-lab.js';
import { noise } from './peer.js';

const SIZE = 20 * 65536;
const FLIPS = 40;

function flip(path: string, at: number, bit: number): void {
  const byte = readAt(path, at, 1);
  byte[0]! ^= 1 << bit;
  const fd = openSync(path, 'r+');
  writeSync(fd, byte, 0, 1, at);
  closeSync(fd);
}

async function labWithTwo(t: Parameters<typeof scratch>[0], level: number) {
  const bytes = Buffer.alloc(SIZE);
  for (let i = 0; i < 20; i++)
    if (i % 4 !== 3) (i % 2 ? noise(i, 65536) : Buffer.alloc(65536, `${i} `)).copy(bytes, i * 65536);
  const lab = new Lab(scratch(t), bytes);
  await lab.backup({ level });
  const first = Buffer.from(lab.bytes);
  lab.write(3 * 65536 + 5, noise(50, 100_000));
  lab.write(8 * 65536, Buffer.alloc(65536));
  await lab.backup({ level });
  return { lab, contents: [first, Buffer.from(lab.bytes)] };
}

for (const level of [0, 1]) {
  t.test(level ? 'packed' : 'plain', async t => {
    const { lab, contents } = await labWithTwo(t, level);
    const next = random(level + 5);
    const files = readdirSync(lab.history).filter(name => /\.(qcow2|tree|json)$/.test(name));
    let found = 0;
    for (const name of files) {
      const path = join(lab.history, name);
      const { size } = statSync(path);
      for (let i = 0; i < FLIPS; i++) {
        const [at, bit] = [next(size), next(8)];
        flip(path, at, bit);
        const history = new History(lab.history);
        const results = await verifyAll(lab.history, false);
        if (history.troubles.length > 0 || results.some(({ sound }) => !sound)) found++;
        else {
          t.equal(history.points.length, 2);
          for (const [i, point] of history.points.entries()) {
            const same = (await readPoint(history, point)).equals(contents[i]!);
            if (!same || !name.endsWith('.qcow2')) t.fail(`${name}: bit ${bit} of byte ${at} was missed`);
          }
        }
        history.close();
        flip(path, at, bit);
      }
    }
    t.ok(found > (files.length * FLIPS) / 2, `${found} of ${files.length * FLIPS} flips`);
    for (const { sound } of await verifyAll(lab.history, true)) t.ok(sound, 'and all is well again');
  });
}

t.test('a flip before the proof', async t => {
  for (const name of ['qcow2', 'tree']) {
    const lab = new Lab(scratch(t), noise(30, SIZE));
    await t.rejects(
      lab.backup({
        step: step => {
          if (step !== 'synced') return;
          const [partial] = readdirSync(lab.history).filter(
            one => one.startsWith('.asof-') && one.endsWith(name),
          );
          const path = join(lab.history, partial!);
          flip(path, name === 'tree' ? 5000 : 3 * 65536 + 17, 3);
        },
      }),
      { code: 'BACKUP_FAILED', message: /not what was read/ },
      name,
    );
    t.same(readdirSync(lab.history).sort(), ['.asof-failures', '.asof-lock']);
  }
});

t.test('a defect is healed by the next image', async t => {
  const lab = new Lab(scratch(t), noise(31, SIZE));
  const { manifest } = await lab.backup({ level: 0 });
  flip(join(lab.history, manifest.image.file), 5 * 65536 + 9, 0);
  const history = new History(lab.history);
  const [result] = await verifyAll(lab.history, false);
  t.equal(result!.defects.length, 1);
  keepResult(history, history.points[0]!, result!);
  history.close();
  const healed = await lab.backup();
  t.equal(healed.manifest.read, 65536, 'it alone is read again');
  t.equal((await lab.backup()).manifest.read, 0, 'once');
  const after = new History(lab.history);
  t.teardown(() => after.close());
  t.ok((await readPoint(after, after.points.at(-1)!)).equals(lab.bytes));
  t.notOk((await readPoint(after, after.points[0]!)).equals(lab.bytes), 'the old one stays what it is');
});
