/**
 * Points: their order, names that are unique and stay the same, and how a user means one.
 */
import { utimesSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { findPoint, pointAt, points } from '../../src/image/points.js';
import { momentOf, parseTime } from '../../src/moment.js';
import { folder, qemuImg } from './peer.js';

const dir = folder(t);
const base = join(dir, 'monday.qcow2');
const top = join(dir, 'tuesday.qcow2');
qemuImg('create', '-q', '-f', 'qcow2', base, '1M');
qemuImg('snapshot', '-c', 'clean', base);
qemuImg('snapshot', '-c', 'clean', base);
qemuImg('create', '-q', '-f', 'qcow2', '-b', 'monday.qcow2', '-F', 'qcow2', top);
const [monday, tuesday] = [new Date('2026-11-23T10:15:00Z'), new Date('2026-11-24T10:15:00.750Z')];
utimesSync(base, monday, monday);
utimesSync(top, tuesday, tuesday);
const chain = openChain(top);
t.teardown(() => chain.close());
const all = points(chain);

const refuses = (text: string, words: RegExp) => {
  try {
    t.fail(findPoint(all, text).id);
  } catch (error) {
    t.ok(error instanceof AsofError && error.code === 'POINT_UNKNOWN');
    t.match(error, { message: words });
  }
};

t.test('order and ids', async t => {
  t.same(
    all.map(({ id }) => id),
    ['tuesday.qcow2', 'monday.qcow2', 'monday.qcow2#2', 'monday.qcow2#1'],
  );
  t.same(all[0]!.time, tuesday);
  t.equal(all[0]!.moment, '2026-11-24T10-15-00Z');
  t.equal(all[1]!.moment, '2026-11-23T10-15-00Z');
});

t.test('moments of one second differ, and the older keeps the plain name', async t => {
  const [second, first] = all.slice(2);
  t.equal(new Set(all.map(({ moment }) => moment)).size, all.length);
  t.equal(first!.moment, momentOf(first!.time));
  if (momentOf(first!.time) === momentOf(second!.time)) t.equal(second!.moment, `${first!.moment}-2`);
  else t.equal(second!.moment, momentOf(second!.time));
});

t.test('a point is meant by id, moment, name or time', async t => {
  t.equal(findPoint(all, 'monday.qcow2#1'), all[3]);
  t.equal(findPoint(all, '2026-11-24T10-15-00Z'), all[0]);
  t.equal(findPoint(all, 'tuesday.qcow2'), all[0]);
  t.equal(findPoint(all, '@2026-11-24T10:15:00.750Z'), all[0]);
  t.equal(findPoint(all, '@2026-11-24T10:15:00.749Z'), all[1], 'not yet at that instant');
  t.equal(findPoint(all, '@2026-11-24T10:15:00Z'), all[0], 'within that second');
  t.equal(findPoint(all, '@2026-11-24'), all[0], 'on that day');
  t.equal(findPoint(all, '@2026-11-23T23-59-00Z'), all[1]);
  refuses('sunday', /no point is called "sunday"; there are: tuesday\.qcow2, monday\.qcow2/);
  refuses('clean', /2 points have the name "clean"/);
  refuses('@2001-01-01', /no point is at or before 2001-01-01/);
  refuses('@yesterday', /not @ and a time/);
});

t.test('the newest point at a time', async t => {
  const [first] = all.slice(3);
  // Snapshots were made now; the files say that they were last written earlier or later.
  t.equal(pointAt(all, new Date(8.64e15)).time.getTime(), Math.max(...all.map(({ time }) => time.getTime())));
  t.ok(pointAt(all, first!.time).time <= first!.time);
});

t.test('times are read as users and folders write them', async t => {
  t.same(parseTime('2026-11-21T10-15-00Z'), new Date('2026-11-21T10:15:00Z'));
  t.same(parseTime('2026-11-21T10:15'), new Date('2026-11-21T10:15:00Z'));
  t.same(parseTime('2026-11-21T12:15:00+02:00'), new Date('2026-11-21T10:15:00Z'));
  t.same(parseTime('2026-11-21'), new Date('2026-11-21T00:00:00Z'));
  t.equal(parseTime('soon'), undefined);
  t.equal(parseTime('2026-13-45'), undefined);
});

t.test('a point that is closed leaves the chain open', async t => {
  const source = all[0]!.open();
  source.close();
  t.equal([...all[0]!.open().extents(0, 2 ** 20)].length, 1);
});
