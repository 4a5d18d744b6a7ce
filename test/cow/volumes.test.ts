/**
 * A state directory over restarts: what was there comes back; what cannot be believed is unknown, in words; what was
 * interrupted has happened or has not.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readState, writeState } from '../../src/cow/state-file.js';
import { missing, run } from '../peers.js';
import { changesOf, codeOf, emptyFile, loop, MiB, openVolumes, scratch, whileMounted } from './lab.js';

t.setTimeout(120_000);

const CHUNK = 65536;

async function setUp(t: Test, size = 2 * MiB) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const origin = join(folder, 'origin');
  writeFileSync(origin, randomBytes(size));
  const first = await openVolumes(t, state);
  const volume = await first.volumes.add({ name: 'volume', origin, durability: 'process' });
  const write = (offset: number) => volume.opened().live.native.write(offset, randomBytes(512));
  const inside = (name: string) => join(volume.folder, name);
  return { folder, state, origin, ...first, volume, write, inside };
}

/** Opens again, tells how tracking and the snapshots stand, and closes. */
async function again(t: Test, state: string) {
  const { volumes, close } = await openVolumes(t, state);
  const volume = volumes.get('volume');
  const changes =
    volume.state === 'open' ? await changesOf(volumes, 'volume', { since: 'added' }) : undefined;
  const answer = {
    state: volume.state,
    why: volume.why,
    tracking: volume.tracking,
    snapshots: volumes.snapshots(),
    exact: changes?.exact,
    method: changes?.method,
    runs: [...(changes?.runs ?? [])],
  };
  await close();
  return answer;
}

t.test('volumes, snapshots and tracking come back as they were', async t => {
  const { volumes, close, state, write, folder } = await setUp(t);
  emptyFile(join(folder, 'second'), MiB);
  const second = await volumes.add({
    name: 'second',
    origin: join(folder, 'second'),
    chunkSize: 4096,
    storeLimit: 3 * MiB,
    onCowError: 'break-write',
    cowTimeoutMs: 1500,
    store: join(folder, 'elsewhere'),
  });
  const [snapshot] = await volumes.snapshot(['volume', 'second']);
  await write(5 * CHUNK);
  const gone = (await volumes.snapshot(['volume']))[0]!;
  await write(7 * CHUNK);
  await volumes.deleteSnapshot(gone.id);
  const before = volumes.snapshots();
  const { definition } = second;
  await close();

  const other = await openVolumes(t, state);
  t.same(other.volumes.snapshots(), before);
  t.same(other.volumes.get('second').definition, definition);
  const changes = await changesOf(other.volumes, 'volume', { since: snapshot!.id });
  t.same([...changes.runs], [5 * CHUNK, CHUNK, 7 * CHUNK, CHUNK]);
  t.match(changes, { exact: true, method: 'tracked', why: '' });
  t.same([...(await changesOf(other.volumes, 'volume', { since: gone.id })).runs], [7 * CHUNK, CHUNK]);
  await other.close();
});

t.test('a foreign write while nobody looked: unknown, never unchanged', async t => {
  const foreign: Record<string, (origin: string, folder: string) => void> = {
    'a write by dd': origin => {
      const fd = openSync(origin, 'r+');
      writeSync(fd, 'x', 100_000);
      closeSync(fd);
    },
    'a write that hides its time': origin => {
      const { atime, mtime } = statSync(origin);
      const fd = openSync(origin, 'r+');
      writeSync(fd, 'x', 100_000);
      closeSync(fd);
      utimesSync(origin, atime, mtime);
    },
    'another file at that path': (origin, folder) => {
      copyFileSync(origin, join(folder, 'copy'));
      const { atime, mtime } = statSync(origin);
      utimesSync(join(folder, 'copy'), atime, mtime);
      renameSync(join(folder, 'copy'), origin);
    },
    'a larger file': origin => truncateSync(origin, 3 * MiB),
  };
  for (const [name, change] of Object.entries(foreign)) {
    const { volumes, close, state, write, origin, folder } = await setUp(t);
    await volumes.snapshot(['volume']);
    await write(0);
    await close();
    change(origin, folder);
    for (const time of ['first', 'second']) {
      const found = await again(t, state);
      t.match(found, { state: 'open', exact: false, method: 'none' }, `${name}: ${time} start`);
      t.same(found.runs, [0, 2 * MiB], 'everything counts as changed');
      t.equal(found.snapshots[0]!.state, 'unknown');
      t.match(found.snapshots[0]!.why, /^the origin/);
      if (time === 'first') t.equal(found.tracking.state, 'unknown');
    }
  }
});

t.test('a smaller file is no volume any more, and says so', async t => {
  const { close, state, origin } = await setUp(t);
  await close();
  truncateSync(origin, MiB);
  t.match(await again(t, state), { state: 'broken', why: /had 2097152 bytes, and has 1048576/ });
  renameSync(origin, `${origin}.away`);
  t.match(await again(t, state), { state: 'broken', why: /does not exist/ });
});

t.test('missing or damaged state is unknown', async t => {
  const damages: Record<string, (inside: (name: string) => string) => void> = {
    'state.json missing': inside => rmSync(inside('state.json')),
    'state.json damaged': inside => writeFileSync(inside('state.json'), '{"asof"'),
    'the tracker missing': inside => rmSync(inside('tracker')),
    'the tracker empty': inside => truncateSync(inside('tracker'), 0),
    'the tracker overwritten': inside => writeFileSync(inside('tracker'), randomBytes(20_000)),
  };
  for (const [name, damage] of Object.entries(damages)) {
    const { volumes, close, state, write, inside } = await setUp(t);
    await volumes.snapshot(['volume']);
    await write(0);
    await close();
    damage(inside);
    const found = await again(t, state);
    t.match(found, { state: 'open', exact: false, tracking: { state: 'unknown' } }, name);
    t.same(found.runs, [0, 2 * MiB], name);
    t.not(found.tracking.why, '');
  }
});

t.test('a missing store: its snapshots are not readable, and say so', async t => {
  const { volumes, close, state, write, inside } = await setUp(t);
  await volumes.snapshot(['volume']);
  await write(0);
  await close();
  rmSync(inside('store'));
  const found = await again(t, state);
  t.not(found.snapshots[0]!.state, 'live');
  t.not(found.snapshots[0]!.why, '');
});

t.test('a volume whose definition is damaged is listed, and nothing of it is touched', async t => {
  const { close, state, inside } = await setUp(t);
  await close();
  writeFileSync(inside('volume.json'), 'no');
  const before = readdirSync(inside('.'));
  const { volumes, close: end } = await openVolumes(t, state);
  const [volume] = volumes.list();
  t.match(volume, { state: 'unknown', why: /volume.json is damaged/ });
  t.equal(await codeOf(() => volumes.snapshot([volume!.name])), 'VOLUME_NOT_OPEN');
  await end();
  t.same(readdirSync(inside('.')), before);
});

t.test('an interrupted add has not happened; an interrupted removal has', async t => {
  const { close, state, origin, inside } = await setUp(t);
  await close();
  const read = readState<{ added: boolean; definition: object }>(inside('volume.json'), 'volume');
  if (!('body' in read)) throw new Error(read.trouble);
  writeState(inside('volume.json'), 'volume', { ...read.body, added: false });
  const bytes = readFileSync(origin);
  const { volumes, close: end } = await openVolumes(t, state);
  t.same(volumes.list(), []);
  t.notOk(existsSync(inside('store')));
  t.ok(readFileSync(origin).equals(bytes));
  const volume = await volumes.add({ name: 'volume', origin });
  t.equal(volume.state, 'open');
  await end();
});

t.test('a snapshot that was taken but not recorded is there; one that was deleted stays so', async t => {
  const { volumes, close, state, inside, write } = await setUp(t);
  const [kept] = await volumes.snapshot(['volume']);
  await write(0);
  const stale = readFileSync(inside('state.json'));
  const [late] = await volumes.snapshot(['volume']);
  const path = inside('state.json');
  await volumes.close();
  writeFileSync(path, stale); // as if the daemon had died before it wrote
  await close();
  const found = await again(t, state);
  t.same(found.snapshots.map(({ id }) => id).sort(), [kept!.id, late!.id].sort());
  t.same(found.snapshots.find(({ id }) => id === late!.id)?.time, late!.time);
});

t.test('removal leaves the origin as it is, and lets go of it', async t => {
  const { volumes, close, state, origin, volume, write } = await setUp(t);
  await volumes.snapshot(['volume']);
  await write(0);
  t.equal(await codeOf(() => volumes.remove('volume', { force: false })), 'VOLUME_IN_USE');
  await volumes.remove('volume', { force: true });
  t.notOk(existsSync(volume.folder));
  t.same(readdirSync(join(state, 'volumes')), []);
  const bytes = readFileSync(origin);
  const next = await volumes.add({ name: 'volume', origin });
  t.equal(next.state, 'open', 'at once');
  t.ok(readFileSync(origin).equals(bytes));
  await close();
});

t.test('names, origins and stores are refused in words', async t => {
  const { volumes, close, origin, folder } = await setUp(t);
  const other = emptyFile(join(folder, 'other'), MiB);
  const add = (more: object) => codeOf(() => volumes.add({ name: 'other', origin: other, ...more }));
  t.equal(await add({ name: 'volume' }), 'VOLUME_EXISTS');
  t.equal(await add({ origin }), 'VOLUME_EXISTS');
  for (const name of ['', '.x', '-x', 'a/b', '@x', 'x'.repeat(64), 'ä'])
    t.equal(await add({ name }), 'USAGE', name);
  for (const chunkSize of [0, 4095, 12288, 4 * MiB, Number.NaN]) t.equal(await add({ chunkSize }), 'USAGE');
  t.equal(await add({ store: origin }), 'STORE_UNUSABLE');
  t.equal(await add({ store: join(folder, 'no/such') }), 'STORE_UNUSABLE');
  t.equal(await add({ origin: join(folder, 'nothing') }), 'NOT_FOUND');
  t.equal(volumes.list().length, 1);
  t.equal(readdirSync(join(folder, 'state/volumes')).length, 1, 'nothing is left of what was refused');
  t.equal(await add({ store: 'memory' }), '');
  t.equal(await codeOf(() => volumes.snapshot(['other', 'other'])), 'USAGE');
  t.equal(await codeOf(() => volumes.snapshot(['nobody'])), 'VOLUME_UNKNOWN');
  await close();
});

const needs = missing(['losetup', 'mke2fs', 'e2fsck', 'mkfs.xfs', 'mount', 'umount', 'dd'], ['root', 'loop']);
t.test('block devices: mounted elsewhere, even read-only, and dd', { skip: needs }, async t => {
  const folder = scratch(t);
  const path = emptyFile(join(folder, 'disk'), 64 * MiB);
  const device = await loop(t, path);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const state = join(folder, 'state');
  const first = await openVolumes(t, state);
  await first.volumes.add({ name: 'volume', origin: device, durability: 'process' });
  await first.close();
  t.match(await again(t, state), { state: 'open', exact: true, tracking: { state: 'exact' }, runs: [] });

  await whileMounted(folder, ['mount', '-t', 'ext4', '-o', 'ro', device], () => {});
  const quiet = await again(t, state);
  t.match(quiet, { exact: true }, 'a clean ext4 notes nothing of a read-only mount, and nothing is written');

  // The kernel counts a flush as a write: one by who only looked, and every snapshot of the device was given up.
  await run('sync', [device]);
  await run('e2fsck', ['-fn', device]);
  t.match(await again(t, state), { exact: true }, 'a flush is no write');

  await whileMounted(folder, ['mount', '-t', 'ext4', device], () => {});
  const mounted = await again(t, state);
  t.match(mounted, { exact: false, tracking: { state: 'unknown' } }, 'a mount for writing');
  t.same(mounted.runs, [0, 64 * MiB]);

  await run('dd', [
    'if=/dev/urandom',
    `of=${device}`,
    'bs=512',
    'count=1',
    'seek=90000',
    'conv=fsync,notrunc',
    'status=none',
  ]);
  const written = await again(t, state);
  t.match(
    written,
    { exact: false, tracking: { state: 'unknown', why: /device was written to/ } },
    'dd where no file system looks',
  );
  await run('losetup', ['-d', device]);
});
