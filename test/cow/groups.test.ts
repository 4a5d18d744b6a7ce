/**
 * A group is one moment of all its volumes or it is nothing: of a snapshot that a power cut met while it was taken, and
 * that nobody was told of, no member is ever shown.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readState, writeState } from '../../src/cow/state-file.js';
import { loadAddon } from '../../src/native.js';
import { emptyFile, MiB, openVolumes, scratch } from './lab.js';

const NAMES = ['a', 'b', 'c'];

async function setUp(t: Test) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const first = await openVolumes(t, state);
  for (const name of NAMES) {
    const origin = emptyFile(join(folder, name), MiB);
    await first.volumes.add({ name, origin, durability: 'process' });
  }
  const native = (name: string) => first.volumes.get(name).opened().native;
  /** Taken, and the daemon died before it recorded it: the engines alone know. */
  const unrecorded = async () => {
    const ids = NAMES.map(() => randomUUID());
    const group = randomUUID();
    const requests = NAMES.map((name, i) => ({ volume: native(name), id: ids[i]! }));
    await loadAddon().CowVolume.snapshot(requests, group, 10_000);
    return { ids, group };
  };
  return { ...first, state, native, unrecorded, folderOf: (name: string) => first.volumes.get(name).folder };
}

t.test('members of a group that was cut short go together', async t => {
  const { volumes, close, state, native, unrecorded } = await setUp(t);
  const [kept] = await volumes.snapshot(NAMES);
  const cut = await unrecorded();
  await native('b').delete(cut.ids[1]!); // as if the cut had kept it from b's store
  const alone = await unrecorded();
  await native('a').delete(alone.ids[0]!);
  await native('c').delete(alone.ids[2]!);
  await close();
  for (let start = 0; start < 2; start++) {
    const { volumes, close } = await openVolumes(t, state);
    t.same(new Set(volumes.snapshots().map(one => one.group)), new Set([kept!.group]));
    for (const name of NAMES)
      t.equal(volumes.get(name).opened().native.snapshots().length, 1, 'from the store too');
    await close();
  }
});

t.test('a group that is whole is taken up, recorded or not', async t => {
  const { volumes, close, state, unrecorded, folderOf } = await setUp(t);
  const [first] = await volumes.snapshot(NAMES);
  const whole = await unrecorded();
  const [second] = await volumes.snapshot(NAMES);
  // The daemon died when it had recorded the second on one volume, and when it had deleted one member.
  const folders = NAMES.map(folderOf);
  await volumes.get(NAMES[0]!).delete(second!.id);
  await close();
  for (const folder of folders.slice(1)) {
    const read = readState<{ snapshots: { group: string }[] }>(join(folder, 'state.json'), 'volume-state');
    if ('trouble' in read) throw new Error(read.trouble);
    const { body } = read;
    const snapshots = body.snapshots.filter(one => one.group !== second!.group);
    writeState(join(folder, 'state.json'), 'volume-state', { ...body, snapshots });
  }
  const again = await openVolumes(t, state);
  const count = (group: string) => again.volumes.snapshots().filter(one => one.group === group).length;
  t.equal(count(first!.group), 3);
  t.equal(count(whole.group), 3);
  t.equal(count(second!.group), 2, 'but for the one that was deleted');
  await again.close();
});

t.test('a volume that cannot be opened hides no group that was recorded', async t => {
  const { volumes, close, state, folderOf } = await setUp(t);
  const [taken] = await volumes.snapshot(NAMES);
  const file = join(folderOf('b'), 'state.json');
  await close();
  writeState(file, 'something else', {});
  const again = await openVolumes(t, state);
  const members = again.volumes.snapshots().filter(one => one.group === taken!.group);
  t.same(members.map(one => one.volume).sort(), NAMES);
  await again.close();
});

t.test('the daemon died between the record of a moment and that of its snapshot: they agree', async t => {
  const { volumes, close, state, folderOf } = await setUp(t);
  const writers = [{ kind: 'command', settings: { hold: 'true' } }];
  const [one] = await volumes.snapshot(['a'], 'cow', { writers });
  const [several] = await volumes.snapshot(['b', 'c'], 'cow', { writers });
  const folders = NAMES.map(folderOf);
  await close();
  for (const folder of folders) {
    const read = readState<object>(join(folder, 'state.json'), 'volume-state');
    if ('trouble' in read) throw new Error(read.trouble);
    writeState(join(folder, 'state.json'), 'volume-state', { ...read.body, snapshots: [] });
  }
  const again = await openVolumes(t, state);
  for (const id of [one!.id, several!.group]) {
    for (const { consistency, record } of again.volumes.show(id)) {
      t.same([consistency, record?.consistency], ['application', 'application']);
    }
  }
  await again.close();
});

t.test('members go together, and one that is lost shows on the others', async t => {
  const { volumes, close, state } = await setUp(t);
  const made = await volumes.snapshot(NAMES);
  const [one] = made;
  t.same(new Set(volumes.snapshots().map(({ groupWhy }) => groupWhy)), new Set(['']));
  await t.rejects(volumes.deleteSnapshot(one!.id), {
    code: 'SNAPSHOT_GROUPED',
    hint: new RegExp(one!.group),
  });
  t.equal(volumes.snapshots().length, 3, 'nothing was deleted');
  // As a daemon leaves it that dies in the middle of a deletion, or a copy that failed.
  await volumes.get('b').delete(made[1]!.id);
  for (const name of ['a', 'c'])
    t.match(volumes.snapshots(name)[0], { state: 'live', groupWhy: '1 of 3 is gone' });
  await volumes.get('c').opened().native.distrust('a test');
  t.match(volumes.show(one!.id)[0]!.groupWhy, /that of c is broken, 1 of 3 is gone/);
  await close();
  const again = await openVolumes(t, state);
  t.match(again.volumes.snapshots('a')[0]!.groupWhy, /1 of 3 is gone/, 'after a restart, too');
  await again.volumes.deleteSnapshot(one!.group);
  t.same(again.volumes.snapshots(), [], 'what is left goes together');
  await again.close();
});
