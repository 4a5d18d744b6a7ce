/**
 * A volume of the daemon, backed up while it is written to: each point is the snapshot's content, later ones read only
 * what the tracker names, and no snapshot stays behind.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { scratch } from '../cow/lab.js';
import { convert, noise } from '../image/peer.js';
import { attempt, missing, run } from '../peers.js';

t.setTimeout(180_000);

const SIZE = 4 * 2 ** 20;
const skip = missing(['dd', 'umount', 'qemu-img'], ['root', 'fuse']);

async function serve(t: Test, state: string, mount: string): Promise<ChildProcess> {
  const child = spawn(ASOF, ['serve', '--state', state, '--mount', mount, '--log-level', 'error'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => end(child));
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise(done => child.on('close', done));
  child.kill('SIGTERM');
  await ended;
}

t.test('restored through the live file, which the tracker sees', { skip }, async t => {
  const folder = scratch(t);
  const [state, mount, history] = [join(folder, 'state'), join(folder, 'mount'), join(folder, 'history')];
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const origin = join(folder, 'origin.img');
  const bytes = noise(1, SIZE);
  bytes.fill(0, 65536 * 20, 65536 * 24);
  writeFileSync(origin, bytes);
  await serve(t, state, mount);
  await asofJson('volume', 'add', 'vol', origin, '--state', state);
  const backup = () => asofJson<Manifest>('backup', 'vol', '--to', history, '--state', state);
  const diff = () =>
    asofJson<{ start: number; length: number }[]>('diff', `${history}@${first.id}`, 'live', '--state', state);
  const first = await backup();
  const live = join(mount, 'volumes/vol/live');
  const changed = join(folder, 'changed');
  writeFileSync(changed, noise(2, 65536 * 2));
  await run('dd', [`if=${changed}`, `of=${live}`, 'bs=65536', 'seek=21', 'conv=notrunc', 'status=none']);
  await backup();
  t.same(
    (await diff()).map(({ start, length }) => [start, length]),
    [[65536 * 21, 65536 * 2]],
    'live is what it holds now',
  );
  const refused = await asof('restore', `${history}@${first.id}`, origin, '--force', '--json');
  t.equal(refused.status, 2);
  t.match(refused.stderr, /TARGET_BUSY/, 'the origin of a volume of a running daemon');
  await asofJson('restore', `${history}@${first.id}`, live, '--force');
  t.same(await diff(), [], 'it is the point again');
  const third = await backup();
  t.equal(third.method, 'tracked', 'and the tracker has seen it');
  t.equal(third.root, first.root);
  t.ok(convert(join(history, third.image.file)).equals(bytes));
  t.same(await asofJson('snapshot', 'list', '--state', state), [], 'no snapshot is left');
});

t.test('full, then what changed', { skip }, async t => {
  const folder = scratch(t);
  const [state, mount, history] = [join(folder, 'state'), join(folder, 'mount'), join(folder, 'history')];
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const origin = join(folder, 'origin.img');
  const bytes = noise(1, SIZE);
  writeFileSync(origin, bytes);
  const daemon = await serve(t, state, mount);
  await asofJson('volume', 'add', 'vol', origin, '--state', state);
  const live = join(mount, 'volumes/vol/live');
  const write = async (offset: number, piece: Buffer) => {
    const from = join(folder, 'piece');
    writeFileSync(from, piece);
    piece.copy(bytes, offset);
    await run('dd', [
      `if=${from}`,
      `of=${live}`,
      'bs=4096',
      `seek=${offset / 4096}`,
      'conv=notrunc',
      'status=none',
    ]);
  };
  const backup = (...more: string[]) =>
    asofJson<Manifest>('backup', 'vol', '--to', history, '--state', state, ...more);
  const same = (manifest: Manifest, what: string) =>
    t.ok(convert(join(history, manifest.image.file)).equals(bytes), what);

  const full = await backup();
  t.equal(full.kind, 'full');
  t.equal(full.consistency, 'crash');
  t.equal(full.volume.name, 'vol');
  t.equal(full.read, SIZE);
  same(full, 'the full one');
  await write(65536 * 3 + 4096, noise(2, 8192));
  const second = await backup();
  t.equal(second.method, 'tracked');
  t.equal(second.read, 65536);
  same(second, 'the second');
  await write(65536 * 9, noise(3, 4096));
  const third = await backup('--kind', 'differential');
  t.equal(third.method, 'tracked');
  t.equal(third.base?.id, full.id);
  t.equal(third.read, 2 * 65536, 'since the full one');
  same(third, 'the differential');
  t.same(await asofJson('snapshot', 'list', '--state', state), [], 'no snapshot is left');

  await end(daemon);
  const fd = noise(4, 4096);
  fd.copy(bytes, 0);
  writeFileSync(origin, bytes);
  await serve(t, state, mount);
  const foreign = await backup();
  t.equal(foreign.method, 'compared', foreign.methodWhy);
  t.equal(foreign.read, SIZE);
  t.equal(foreign.image.plain + foreign.image.packed, 1, 'and stores what differs');
  same(foreign, 'in the wake of a write past the daemon');
  t.equal((await backup()).method, 'tracked', 'then it is tracked again');
  t.equal((await asof('verify', history, '--deep')).status, 0);
});

t.test(
  'a volume of which nothing is preserved is not backed up, and nobody reads it live for that',
  { skip },
  async t => {
    const folder = scratch(t);
    const [state, mount, history] = [join(folder, 'state'), join(folder, 'mount'), join(folder, 'history')];
    mkdirSync(mount);
    t.teardown(() => attempt('umount', ['-l', mount]));
    const origin = join(folder, 'origin.img');
    writeFileSync(origin, noise(1, SIZE));
    await serve(t, state, mount);
    await asofJson('volume', 'add', 'vol', origin, '--state', state);
    await asofJson('options', 'set', 'providers', 'none', '--state', state);
    const refused = await asof('backup', 'vol', '--to', history, '--state', state, '--json');
    t.equal(refused.status, 2);
    t.match(refused.stderr, /BACKUP_FAILED.*provider none, which preserves nothing/);
    t.notOk(
      existsSync(join(history, '.asof-catalogue')) || readdirSafe(history).some(name => /\.json$/.test(name)),
    );
    t.same(await asofJson('snapshot', 'list', '--state', state), [], 'and no record of it stays');
    await asofJson('options', 'set', 'providers', 'none,cow', '--state', state);
    t.equal(
      (await asof('backup', 'vol', '--to', history, '--state', state)).status,
      2,
      'it is the first that can',
    );
    await asofJson('options', 'set', 'providers', 'cow,none', '--state', state);
    t.match(await asofJson('backup', 'vol', '--to', history, '--state', state), { consistency: 'crash' });
  },
);

function readdirSafe(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
