/** How snapshots are named and found. */
import t from 'tap';
import { findSnapshots, freeMoment } from '../../src/cow/snapshot.js';
import { codeOf } from './lab.js';

const all = [
  { id: 'aaaa1111-0000-4000-8000-000000000000', group: 'aaaa1111-0000-4000-8000-000000000000' },
  { id: 'bbbb2222-0000-4000-8000-000000000000', group: 'eeee5555-0000-4000-8000-000000000000' },
  { id: 'bbbb3333-0000-4000-8000-000000000000', group: 'eeee5555-0000-4000-8000-000000000000' },
];
const found = (text: string) => findSnapshots(all, text).map(one => one.id.slice(0, 8));

t.test('by id, by group, by the beginning of either', async t => {
  t.same(found(all[0]!.id), ['aaaa1111']);
  t.same(found(all[1]!.group), ['bbbb2222', 'bbbb3333']);
  t.same(found('bbbb2'), ['bbbb2222']);
  t.same(found('AAAA'), ['aaaa1111']);
  t.same(found('eeee'), ['bbbb2222', 'bbbb3333']);
  for (const text of ['', 'aaa', 'bbbb', 'cccc', `${all[0]!.id}0`]) {
    t.equal(await codeOf(() => found(text)), 'SNAPSHOT_UNKNOWN', text);
  }
});

t.test('the second is the name, with a number where it is taken', async t => {
  const time = Date.parse('2026-11-21T10:15:00.900Z');
  const names: string[] = [];
  for (let i = 0; i < 3; i++) names.push(freeMoment(time, names));
  t.same(names, ['2026-11-21T10-15-00Z', '2026-11-21T10-15-00Z-2', '2026-11-21T10-15-00Z-3']);
});
