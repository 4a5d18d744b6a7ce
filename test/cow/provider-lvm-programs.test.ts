/**
 * The provider `lvm` with scripted programs: what it asks of them, how it reads what they say, and what becomes of a snapshot
 * when they fail. test/guest/lvm.ts shows the real thing.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { deviceNumber } from '../../src/cow/block-device.js';
import { NO_POLICIES } from '../../src/cow/policy.js';
import { lvm } from '../../src/cow/provider-lvm.js';
import type { Volume } from '../../src/cow/volume.js';
import { missing } from '../peers.js';
import { codeOf, loop, MiB, openVolumes, scratch } from './lab.js';
import { type Row, scriptLvm } from './scripted-lvm.js';

t.setTimeout(120_000);

const skip = missing(['losetup'], ['root', 'loop']);
const number = (path: string) => deviceNumber(statSync(path, { bigint: true }).rdev);

async function setUp(t: Test, more: Row = {}) {
  const folder = scratch(t);
  const scripted = scriptLvm(t, join(folder, 'lvm'));
  const bytes = randomBytes(MiB);
  writeFileSync(join(folder, 'disk'), bytes);
  const origin = await loop(t, join(folder, 'disk'));
  scripted.addOrigin(origin, number(origin), more);
  const state = join(folder, 'state');
  const { volumes, close } = await openVolumes(t, state);
  const volume = await volumes.add({ name: 'v', origin, durability: 'process' });
  const created = () => scripted.calls().find(([program]) => program === 'lvcreate')!;
  const change = (changes: Row) =>
    scripted.setRows(scripted.rows().map(row => (row['lv_tags'] === '' ? row : { ...row, ...changes })));
  return { folder, scripted, bytes, origin, state, volumes, close, volume, created, change };
}

async function read(volume: Volume, id: string): Promise<Buffer> {
  const bytes = Buffer.alloc(MiB);
  await volume.disk(id).native.read(0, bytes);
  return bytes;
}

t.test('what is asked for', { skip }, async t => {
  const { volumes, volume, created, scripted, close } = await setUp(t);
  volume.lvmSize = 12345;
  const [made] = await volumes.snapshot(['v'], 'lvm');
  t.same(created(), [
    'lvcreate', '--yes', '--snapshot', '--permission', 'r', '--name', `asof-${made!.id}`,
    '--addtag', 'asof', '--addtag', 'asof.new', '--addtag', `asof.volume=${volume.definition.id}`, '--addtag', `asof.time=${made!.time}`,
    '--size', '12345b', 'vg/lv0', 'C',
  ]); // biome-ignore format: a command line
  const questions = scripted.calls().filter(([program]) => program === 'lvs');
  t.ok(questions.every(one => one.includes('--reportformat') && one.includes('json') && one.at(-1) === 'C'));
  await volumes.deleteSnapshot(made!.id);
  const removed = scripted.calls().find(([program]) => program === 'lvremove');
  t.same(removed, ['lvremove', '--yes', `vg/asof-${made!.id}`, 'C']);
  await close();
});

t.test('unless a size is given it can hold all', { skip }, async t => {
  const { volumes, created, close } = await setUp(t);
  await volumes.snapshot(['v'], 'lvm');
  t.match(created().join(' '), /--extents 100%ORIGIN vg/);
  await close();
});

t.test('the size that the configuration says, of volumes that are there already', { skip }, async t => {
  const { created, state, close } = await setUp(t);
  await close();
  const policies = { ...NO_POLICIES, defaults: { lvmSize: 4096 } };
  const again = await openVolumes(t, state, { policies });
  await again.volumes.snapshot(['v'], 'lvm');
  t.match(created().join(' '), /--size 4096b vg/);
  await again.close();
});

t.test('of a thin volume it is thin, and active', { skip }, async t => {
  const { volumes, created, close } = await setUp(t, { segtype: 'thin', lv_attr: 'Vwi-a-tz--' });
  await volumes.snapshot(['v'], 'lvm');
  t.match(created().join(' '), /--setactivationskip n vg/);
  await close();
});

t.test('what it says of its state, as lvm2 says it', { skip }, async t => {
  const { volumes, volume, bytes, change, scripted, close } = await setUp(t);
  const [made] = await volumes.snapshot(['v'], 'lvm');
  const told = async (row: Row) => {
    change(row);
    await volumes.refresh();
    const [{ state, why } = { state: '', why: '' }] = volumes.snapshots();
    return { state, why };
  };
  const good = { lv_attr: 'sri-a-s---', lv_kernel_major: '253' };
  t.match(await told(good), { state: 'live', why: '' });
  t.match(await told({ lv_attr: 'sri-I-s---' }), { state: 'broken', why: /invalid: more was written/ });
  t.match(await told({ lv_attr: 'Sri-S-s---' }), { state: 'broken', why: /invalid/ });
  t.match(await told({ ...good, lv_attr: 'Vri-a-tzF-' }), { state: 'broken', why: /pool .* failed/ });
  t.match(await told({ ...good, lv_attr: 'sri-a-s-p-' }), { state: 'broken', why: /physical volume/ });
  t.match(await told({ ...good, lv_kernel_major: '-1' }), { state: 'unknown', why: /lvchange -ay/ });
  scripted.faults({ lvs: { stdout: '{"report": [{"lv": [' } });
  await volumes.refresh();
  t.match(volumes.snapshots()[0], { state: 'unknown', why: /no report in JSON/ });
  scripted.faults({ lvs: { stdout: '{"report": [{"lv": [{"vg_name": "vg"}]}]}' } });
  await volumes.refresh();
  t.match(volumes.snapshots()[0], { state: 'unknown', why: /gave no lv_kernel_major/ });
  scripted.faults({ lvs: { stderr: '  Cannot lock.\n  Try later.\n', code: 5 } });
  await volumes.refresh();
  t.match(volumes.snapshots()[0], { state: 'unknown', why: 'lvs --reportformat: Cannot lock.; Try later.' });
  scripted.faults({});
  t.match(await told(good), { state: 'live' }, 'it is asked anew each time');
  t.ok((await read(volume, made!.id)).equals(bytes));
  await close();
});

t.test('after a restart it is found by its tags, and activated', { skip }, async t => {
  const { volumes, volume, bytes, change, state, scripted, folder, close } = await setUp(t);
  const taken = await lvm.take([{ volume: volume.opened(), id: ID }], ID, 60_000);
  change({ lv_kernel_major: '-1' });
  // Somebody else's with the same tag, and one of another asof.
  const own = scripted.rows().at(-1)!;
  const unfinished = join(folder, 'unfinished');
  writeFileSync(unfinished, '');
  scripted.setRows([
    ...scripted.rows(),
    { ...own, lv_name: 'other', lv_uuid: 'other' },
    {
      ...own,
      lv_name: `asof-${UNFINISHED}`,
      lv_uuid: 'new',
      lv_tags: `${own['lv_tags']},asof.new`,
      lv_path: unfinished,
    },
    {
      ...own,
      lv_name: `asof-${ID.replace('a', 'b')}`,
      lv_uuid: 'third',
      lv_tags: 'asof,asof.volume=elsewhere',
    },
  ]);
  t.same(volumes.snapshots(), [], 'nobody recorded it');
  await close();
  const again = await openVolumes(t, state);
  const [found, second] = again.volumes.snapshots();
  t.match(found, { id: ID, provider: 'lvm', time: taken.time, state: 'live' });
  t.equal(second, undefined);
  t.notOk(
    scripted.rows().some(row => row['lv_uuid'] === 'new'),
    'what was not known to be a moment is gone',
  );
  t.ok((await read(again.volumes.get('v'), ID)).equals(bytes));
  await again.close();
});

const ID = '0123abcd-0123-4567-89ab-0123456789ab';
const UNFINISHED = '1123abcd-0123-4567-89ab-0123456789ab';

t.test('the first that fails is undone, and the next is tried', { skip }, async t => {
  const { volumes, scripted, close } = await setUp(t);
  scripted.faults({ lvcreate: { stderr: '  Volume group "vg" has insufficient free space.\n', code: 5 } });
  const [made] = await volumes.snapshot(['v'], ['reflink', 'lvm', 'cow']);
  t.equal(made!.provider, 'cow');
  t.match(volumes.show(made!.id)[0]!.record!.providers, [
    { name: 'reflink', why: /block device/ },
    { name: 'lvm', why: 'lvcreate --yes: Volume group "vg" has insufficient free space.' },
    { name: 'cow', why: '' },
  ]);
  await t.rejects(
    volumes.snapshot(['v'], ['reflink', 'lvm']),
    { code: 'SNAPSHOT_FAILED', message: /reflink: .*block device.*lvm: .*insufficient/ },
    'the end of the order fails with all causes',
  );
  // It was made, and is not what it should be.
  scripted.faults({});
  const rows = scripted.rows();
  const late = volumes.snapshot(['v'], ['lvm'], { holdMs: 600 });
  scripted.faults({ lvcreate: { late: 60_000 } });
  t.match(await codeOf(() => late), 'SNAPSHOT_FAILED', 'writers are not held for longer than was allowed');
  await close();
  while (scripted.rows().length > rows.length) await setTimeout(20); // until it has ended
  t.same(scripted.rows(), rows, 'nothing is left of it');
  t.equal(volumes.list().length, 0);
});

t.test('what is in use is deleted later', { skip }, async t => {
  const { volumes, scripted, close } = await setUp(t);
  const [made] = await volumes.snapshot(['v'], 'lvm');
  scripted.faults({ lvremove: { stderr: 'Logical volume in use.', code: 5 } });
  await t.rejects(volumes.deleteSnapshot(made!.id), { code: 'SNAPSHOT_FAILED', message: /in use/ });
  t.same(volumes.snapshots(), [], 'it is shown no more');
  t.equal(scripted.rows().length, 2);
  scripted.faults({});
  await volumes.get('v').refresh();
  await lvm.refresh!(volumes.get('v').opened());
  t.equal(scripted.rows().length, 1);
  await close();
});

t.test('what is refused, and why', { skip }, async t => {
  const { volumes, scripted, folder, close } = await setUp(t);
  const refused = (message: RegExp) =>
    t.rejects(volumes.snapshot(['v'], 'lvm'), { code: 'PROVIDER_UNAVAILABLE', message });
  const [row] = scripted.rows();
  scripted.setRows([]);
  await refused(/no logical volume/);
  scripted.setRows([{ ...row!, lv_attr: 'swi-a-s---' }]);
  await refused(/itself a snapshot/);
  scripted.faults({ lvs: { code: 3 } });
  await refused(/it ended with 3/);
  chmodSync(join(folder, 'lvm', 'script'), 0o644);
  await refused(/lvs/);
  t.ok(readFileSync(join(folder, 'lvm', 'calls')).length > 0);
  await close();
});
