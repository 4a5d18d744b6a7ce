/**
 * A writable view of a snapshot, in the daemon: a file system that lives on the volume replays its journal in it while it
 * goes on living; the snapshot stays what it was; a layer that is kept comes back; what is in use is not taken away.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(300_000);

interface Snapshot {
  readonly id: string;
  readonly moment: string;
  readonly overlay: { readonly file: string | null; readonly written: number } | null;
  readonly path?: string;
}

const skip = missing(
  ['mke2fs', 'e2fsck', 'losetup', 'mount', 'umount', 'cmp', 'cp', 'dd', 'ls', 'cat', 'sync'],
  ['root', 'loop', 'fuse'],
);

async function serve(t: Test, state: string, mount: string): Promise<ChildProcess> {
  const child = spawn(ASOF, ['serve', '--state', state, '--mount', mount, '--log-level', 'error'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => end(child, 'SIGKILL'));
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
  t.match(text, /^ready on /);
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise(done => child.on('close', done));
  child.kill(signal);
  await ended;
}

t.test('the overlay of a snapshot', { skip }, async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const mount = join(folder, 'mount');
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const daemon = await serve(t, state, mount);
  const ask = <T>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  const refused = async (...argv: string[]) => {
    const { status, stderr } = await asof(...argv, '--state', state, '--json');
    t.equal(status, 2, argv.join(' '));
    return (JSON.parse(stderr) as { error: { code: string; message: string } }).error;
  };

  const origin = emptyFile(join(folder, 'origin'), 32 * MiB);
  const { live } = await ask<{ live: string }>('volume', 'add', 'disk', origin, '--durability', 'process');
  const device = (await run('losetup', ['-f', '--show', live])).trim();
  t.teardown(() => detachLoops(live));
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const lives = join(folder, 'lives');
  const there = join(folder, 'there');
  mkdirSync(lives);
  mkdirSync(there);
  await run('mount', ['-t', 'ext4', device, lives]);
  t.teardown(() => attempt('umount', [lives]));
  t.teardown(() => attempt('umount', [there]));
  const bytes = join(folder, 'bytes');
  writeFileSync(bytes, randomBytes(2 * MiB + 17));
  await run('cp', [bytes, join(lives, 'then')]);
  await run('sync', ['-f', lives]);
  const [snapshot] = await ask<Snapshot[]>('snapshot', 'create', 'disk');
  const { id, moment } = snapshot!;
  t.equal(snapshot!.overlay, null);
  const disk = join(mount, 'volumes/disk', moment, 'disk');
  const copy = join(folder, 'copy');
  await run('cp', [disk, copy]);

  // In the text answer the path is all that there is, for scripts.
  const told = await asof('snapshot', 'overlay', id, '--state', state);
  const path = join(mount, 'volumes/disk', moment, 'overlay');
  t.equal(told.stdout.toString(), `${path}\n`);
  t.equal((await refused('snapshot', 'overlay', id)).code, 'OVERLAY_IN_USE', 'there is one already');
  const over = (await run('losetup', ['-f', '--show', path])).trim();
  t.teardown(() => detachLoops(path));
  await run('mount', ['-t', 'ext4', over, there]);
  t.equal((await attempt('cmp', [join(there, 'then'), bytes])).code, 0, 'its journal has been replayed');
  await run('cp', [bytes, join(there, 'new')]);
  await run('cp', [bytes, join(lives, 'later')]);
  await run('sync', ['-f', lives]);
  await run('umount', [there]);
  const check = await attempt('e2fsck', ['-f', '-n', over]);
  t.equal(check.code, 0, `it is whole: ${check.stdout}`);
  t.equal((await attempt('cmp', [disk, copy])).code, 0, 'the snapshot is what it was');
  t.not((await attempt('dd', ['if=/dev/zero', `of=${disk}`, 'count=1'])).code, 0, 'and cannot be written');

  const used = await refused('snapshot', 'overlay', id, '--drop');
  t.match(used, { code: 'OVERLAY_IN_USE', message: over }, 'it is not taken away from a loop device');
  t.equal((await refused('snapshot', 'delete', id)).code, 'OVERLAY_IN_USE', 'nor its snapshot from it');
  const [shown] = await ask<Snapshot[]>('snapshot', 'show', id);
  t.match(shown!.overlay, { file: null, written: Number });
  const info = JSON.parse(await run('cat', [join(mount, 'volumes/disk', moment, 'info.json')])) as Snapshot;
  t.match(info.overlay, { file: null }, 'info.json says that it is there');
  await run('losetup', ['-d', over]);
  // Somebody may have been looking at the device; it goes when they have.
  await eventually(
    async () => (await asof('snapshot', 'overlay', id, '--drop', '--state', state)).status === 0,
    'the overlay is dropped',
  );
  t.same((await run('ls', [join(mount, 'volumes/disk', moment)])).trim().split('\n').sort(), [
    'disk',
    'info.json',
  ]);
  t.equal((await refused('snapshot', 'overlay', id, '--drop')).code, 'NOT_FOUND');
  t.same(
    readdirSync(state, { recursive: true, encoding: 'utf8' }).filter(name => name.includes('layer')),
    [],
    'nothing is left of it',
  );

  // Kept, over a restart of the daemon.
  const layer = join(folder, 'kept.layer');
  const made = await ask<Snapshot>('snapshot', 'overlay', id, layer);
  t.match(made, { id, path, overlay: { file: layer, written: 0 } });
  await run('dd', [
    `if=${bytes}`,
    `of=${path}`,
    'bs=4096',
    'seek=100',
    'count=50',
    'conv=notrunc,fsync',
    'status=none',
  ]);
  await run('dd', [
    `if=${bytes}`,
    `of=${copy}`,
    'bs=4096',
    'seek=100',
    'count=50',
    'conv=notrunc',
    'status=none',
  ]);
  t.equal((await attempt('cmp', [path, copy])).code, 0);
  await run('umount', [lives]);
  await run('losetup', ['-d', device]);
  daemon.kill('SIGTERM');
  await eventually(() => daemon.exitCode !== null, 'the daemon has stopped');
  t.equal(daemon.exitCode, 0);
  await serve(t, state, mount);
  t.notOk(
    (await run('ls', [join(mount, 'volumes/disk', moment)])).includes('overlay'),
    'it comes back when asked for',
  );
  await ask('snapshot', 'overlay', id.slice(0, 8), layer);
  t.equal((await attempt('cmp', [path, copy])).code, 0, 'with all that was written');

  // Under another name nobody sees who has it; that somebody has is known all the same.
  const reader = spawn('sh', [
    '-c',
    'exec 3<"$1" && echo open && read x',
    'sh',
    join(mount, 'volumes/disk/@2100-01-01/overlay'),
  ]);
  t.teardown(() => end(reader, 'SIGKILL'));
  let said = '';
  reader.stdout.on('data', piece => {
    said += String(piece);
  });
  await eventually(() => said.includes('open') || reader.exitCode !== null, 'it is open');
  t.match(await refused('snapshot', 'overlay', id, '--drop'), { code: 'OVERLAY_IN_USE' });
  t.equal((await attempt('cmp', [path, copy])).code, 0, 'and it is there as before');
  await end(reader, 'SIGKILL');

  const [other] = await ask<Snapshot[]>('snapshot', 'create', 'disk');
  t.match(await refused('snapshot', 'overlay', other!.id, layer), {
    code: 'OVERLAY_UNUSABLE',
    message: 'has it',
  });
  await ask('snapshot', 'overlay', id, '--drop');
  t.match(await refused('snapshot', 'overlay', other!.id, layer), {
    code: 'OVERLAY_UNUSABLE',
    message: `the snapshot ${id}`,
  });
  const inside = join(mount, 'volumes/disk/layer');
  t.match(await refused('snapshot', 'overlay', id, inside), {
    code: 'OVERLAY_UNUSABLE',
    message: 'own mount',
  });
  await ask('snapshot', 'delete', id);
  t.ok(existsSync(layer), 'what was kept is the user’s');
  await ask('snapshot', 'overlay', other!.id);
  await ask('volume', 'remove', '--force', 'disk');
});
