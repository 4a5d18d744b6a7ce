/**
 * Random histories from which random points leave: what stays has the bytes and the root that it had, for our reader and for
 * QEMU, passes qemu-img check and asof verify, takes further backups, and no merge reads more than the upper image holds.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { History } from '../../src/image/history.js';
import { keepResult, resultsOf } from '../../src/image/verification.js';
import { missing } from '../peers.js';
import { type Contents, drop, holdsAll, newLab, remember, scribble } from './consolidate-lab.js';
import { random, scratch, verifyAll } from './history-lab.js';
import { noise } from './peer.js';

t.setTimeout(300_000);
const skip = missing(['qemu-img']);

const listed = (path: string) => {
  const history = new History(path);
  history.close();
  return history.points;
};

for (let seed = 1; seed <= 4; seed++) {
  t.test(`history ${seed}`, { skip }, async t => {
    const next = random(seed);
    const lab = newLab(scratch(t), seed);
    const contents: Contents = new Map();
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 4; i++) {
        scribble(lab, next, next(4));
        const points = round === 0 && i === 0 ? [] : listed(lab.history);
        const chosen =
          points.length > 0 && next(4) === 0 ? points[next(points.length)]!.manifest.id : undefined;
        await remember(lab, contents, {
          level: next(3) === 0 ? 0 : 1,
          ...(next(8) === 0 ? { kind: 'full' as const } : chosen ? { base: chosen } : {}),
        });
      }
      const all = listed(lab.history);
      const going = all.filter(() => next(2) === 0).slice(0, all.length - 1);
      const ids = going.map(({ manifest }) => manifest.id);
      const result = await drop(lab.history, ids);
      const stayed = result.stays.map(({ point }) => point.manifest.id);
      const left = listed(lab.history).map(({ manifest }) => manifest.id);
      const expected = all
        .map(({ manifest }) => manifest.id)
        .filter(id => !ids.includes(id) || stayed.includes(id));
      t.same([...left].sort(), [...expected].sort(), `round ${round}: who is left`);
      t.equal(result.done.length + stayed.length, ids.length);
      await holdsAll(t, lab.history, contents, left, `round ${round}`);
      for (const { faults, defects } of await verifyAll(lab.history, true))
        t.same([faults, defects], [[], []]);
      for (const { faults, defects } of await verifyAll(lab.history, false))
        t.same([faults, defects], [[], []]);
    }
    const ours = listed(lab.history).flatMap(({ stem }) =>
      ['json', 'qcow2', 'tree'].map(end => `${stem}.${end}`),
    );
    t.same(readdirSync(lab.history).sort(), [...ours, '.asof-lock'].sort(), 'nothing else is left');
  });
}

t.test('by change, not by size', { skip }, async t => {
  const lab = newLab(scratch(t), 9);
  const contents: Contents = new Map();
  const ids: string[] = [];
  for (let i = 0; i < 12; i++) {
    lab.write(5 * 65536, noise(i, 65536));
    ids.push(await remember(lab, contents, { level: 0 }));
  }
  const [full] = listed(lab.history);
  const before = statSync(join(lab.history, full!.manifest.image.file));
  const result = await drop(lab.history, ids.slice(0, -1));
  t.equal(result.copied, 11 * 65536, 'one cluster a merge');
  const [only, ...others] = listed(lab.history);
  t.same(others, []);
  t.equal(only!.manifest.kind, 'full');
  t.equal(only!.manifest.base, null);
  const after = statSync(join(lab.history, only!.manifest.image.file));
  t.equal(after.ino, before.ino, 'the file of the full image lives on');
  // What one merge frees the next one uses; what it writes anew are tables.
  t.ok(after.size < before.size + 11 * 4 * 65536, `${before.size} bytes, then ${after.size}`);
  await holdsAll(t, lab.history, contents, [ids.at(-1)!], 'the last');
});

t.test('what several points stand on stays until one is left', { skip }, async t => {
  const lab = newLab(scratch(t), 11);
  const contents: Contents = new Map();
  const next = random(3);
  const full = await remember(lab, contents);
  const above: string[] = [];
  for (let i = 0; i < 3; i++) {
    scribble(lab, next, 2);
    above.push(await remember(lab, contents, { kind: 'differential' }));
  }
  const first = await drop(lab.history, [full]);
  t.same(first.done, []);
  t.match(first.stays, [{ why: '3 points stand on it' }]);
  const second = await drop(lab.history, [full, above[0]!, above[1]!]);
  t.same(second.stays, []);
  t.same(
    second.done.map(({ into }) => into?.manifest.id ?? null),
    [null, null, above[2]],
  );
  await holdsAll(t, lab.history, contents, [above[2]!], 'the last one');
});

t.test('a reader keeps what it reads', { skip }, async t => {
  const lab = newLab(scratch(t), 12);
  const contents: Contents = new Map();
  const first = await remember(lab, contents);
  lab.write(0, noise(77, 5));
  const second = await remember(lab, contents);
  const reader = new History(lab.history);
  const stale = new History(lab.history);
  reader.hold();
  await t.rejects(drop(lab.history, [first]), { code: 'HISTORY_BUSY' });
  reader.close();
  await drop(lab.history, [first]);
  t.throws(
    () => stale.image(stale.points[1]!),
    { code: 'HISTORY_BUSY' },
    'what was listed before is not believed',
  );
  stale.close();
  await holdsAll(t, lab.history, contents, [second], 'after the reader');
});

t.test('known defects go with the clusters', { skip }, async t => {
  const lab = newLab(scratch(t), 13);
  const contents: Contents = new Map();
  const first = await remember(lab, contents);
  lab.write(0, noise(78, 5));
  await remember(lab, contents);
  const history = new History(lab.history);
  const defect = { offset: 3 * 65536, length: 65536, why: 'a test says so' };
  keepResult(history, history.points[0]!, {
    time: new Date().toISOString(),
    depth: 'stored',
    sample: null,
    sound: false,
    bytes: 0,
    faults: [],
    defects: [{ ...defect, offset: 0 }, defect],
  });
  history.close();
  await drop(lab.history, [first]);
  const after = new History(lab.history);
  t.same(
    resultsOf(after, after.points[0]!).flatMap(({ defects }) => defects),
    [defect],
    'not the one that the upper image has anew',
  );
  after.close();
});
