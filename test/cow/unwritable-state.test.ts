/** Where the state directory takes nothing any more, what was asked for fails whole: nothing is half recorded or half gone. */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { loadAddon } from '../../src/native.js';
import { eventually } from '../cli/asof.js';
import { codeOf, emptyFile, MiB, openVolumes, scratch } from './lab.js';

const NAMES = ['a', 'b', 'c'];

async function setUp(t: Test) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const opened = await openVolumes(t, state);
  const { volumes } = opened;
  for (const name of NAMES) {
    await volumes.add({ name, origin: emptyFile(join(folder, name), MiB), durability: 'process' });
  }
  const native = (name: string) => volumes.get(name).opened().native;
  /** No state of the volume `name` can be written while `work` runs. */
  const unwritable = async (name: string, work: () => Promise<void>) => {
    const stands = join(volumes.get(name).folder, 'state.json.new');
    mkdirSync(stands);
    await work();
    rmdirSync(stands);
  };
  const known = () => volumes.snapshots().map(one => one.volume);
  const kept = () => NAMES.map(name => native(name).snapshots().length);
  return { ...opened, state, native, unwritable, known, kept };
}

t.test('a snapshot that one member cannot record leaves nothing', async t => {
  const { volumes, unwritable, known, kept } = await setUp(t);
  await unwritable('b', async () => {
    t.equal(await codeOf(() => volumes.snapshot(NAMES)), 'IO');
    t.same(known(), []);
    t.same(kept(), [0, 0, 0]);
  });
  await volumes.snapshot(NAMES);
  t.same(kept(), [1, 1, 1]);
});

t.test('a group of which one member cannot be deleted stays whole', async t => {
  const { volumes, unwritable, known, kept } = await setUp(t);
  const [{ group } = { group: '' }] = await volumes.snapshot(NAMES);
  await unwritable('b', async () => {
    t.equal(await codeOf(() => volumes.deleteSnapshot(group)), 'IO');
    t.same(known(), NAMES);
    t.same(kept(), [1, 1, 1]);
  });
  await volumes.deleteSnapshot(group);
  t.same(known(), []);
  t.same(kept(), [0, 0, 0]);
});

t.test('a group is gone for whoever looks, from the first moment on', async t => {
  const { volumes, known } = await setUp(t);
  const [{ group } = { group: '' }] = await volumes.snapshot(NAMES);
  const seen = new Set<number>();
  const gone = volumes.deleteSnapshot(group);
  for (let going = true; going; ) {
    seen.add(known().length);
    going = await Promise.race([gone.then(() => false), new Promise<true>(done => setImmediate(done, true))]);
  }
  t.same(
    [...seen].filter(count => count % NAMES.length !== 0),
    [],
  );
});

t.test('a consumer has what is on record', async t => {
  const { volumes, unwritable } = await setUp(t);
  const [first] = await volumes.snapshot(['a']);
  const [second] = await volumes.snapshot(['a']);
  await volumes.mark('a', 'backup', first!.id);
  const has = () =>
    volumes
      .get('a')
      .consumers()
      .map(one => one.snapshot);
  await unwritable('a', async () => {
    t.equal(await codeOf(() => volumes.mark('a', 'backup', second!.id)), 'IO');
    t.equal(await codeOf(() => volumes.unmark('a', 'backup')), 'IO');
    t.same(has(), [first!.id]);
  });
});

t.test('a volume that cannot be removed is there still, and works', async t => {
  const { volumes, unwritable, native } = await setUp(t);
  const [one] = await volumes.snapshot(['b']);
  await unwritable('b', async () => {
    t.equal(await codeOf(() => volumes.remove('b', { force: true })), 'IO');
    t.same(
      volumes.list().map(({ name, state }) => `${name} ${state}`),
      ['a open', 'b open', 'c open'],
    );
  });
  await native('b').live().write(0, Buffer.alloc(512, 1));
  t.match(volumes.snapshots('b'), [{ id: one!.id, state: 'live' }]);
  await volumes.remove('b', { force: true });
  t.same(
    volumes.list().map(({ name }) => name),
    ['a', 'c'],
  );
});

t.test('a member that is removed before the group is shown takes the others along', async t => {
  const { volumes, state, known, native } = await setUp(t);
  const waits = join(state, 'waits');
  const taking = volumes.snapshot(NAMES, 'cow', {
    commands: { afterSnapshot: `touch ${waits}; while test -e ${waits}; do sleep 0.01; done`, shell: true },
  });
  taking.catch(() => {});
  await eventually(() => existsSync(waits), 'the moment is there, and is not shown');
  await volumes.remove('a', { force: true });
  rmSync(waits);
  await t.rejects(taking, { code: 'VOLUME_NOT_OPEN' });
  t.same(known(), []);
  for (const name of ['b', 'c']) t.same(native(name).snapshots(), []);
});

t.test('a volume that does not open keeps no other one from it', async t => {
  const { volumes, close, state, native } = await setUp(t);
  const requests = NAMES.map(name => ({ volume: native(name), id: randomUUID() }));
  await loadAddon().CowVolume.snapshot(requests, randomUUID(), 10_000);
  const moments = join(volumes.get('b').folder, 'moments');
  await close();
  rmSync(moments, { recursive: true, force: true });
  writeFileSync(moments, '');
  const again = await openVolumes(t, state);
  t.same(
    again.volumes.list().map(({ name, state }) => `${name} ${state}`),
    ['a open', 'b broken', 'c open'],
  );
  await again.close();
});
