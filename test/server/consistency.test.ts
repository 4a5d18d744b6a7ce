/**
 * A file system lives on a volume, over FUSE and a loop device: it is found by itself and held, what the snapshot then holds
 * is clean, and what came about can be read. The daemon that is killed while it holds leaves nothing frozen.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ASOF, asofJson, eventually } from '../cli/asof.js';
import { NEEDED, stuck, writeTo } from '../cow/frozen.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(180_000);

const skip = missing([...NEEDED, 'dumpe2fs', 'e2fsck', 'cp'], ['root', 'loop', 'fuse']);

interface Snapshot {
  readonly id: string;
  readonly moment: string;
  readonly consistency: string;
}

async function started(t: Test, child: ChildProcess, ready: string): Promise<() => string> {
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise(done => child.on('close', done));
    child.kill('SIGKILL');
    await ended;
  });
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.includes(ready) || child.exitCode !== null, 'the daemon is ready');
  return () => text;
}

/** A daemon, a volume, and an ext4 on a loop device over its live device. */
async function setUp(t: Test, program: readonly string[], ready: string) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const mount = join(folder, 'mount');
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const [path = '', ...args] = program.map(one => one.replace('STATE', state).replace('MOUNT', mount));
  const daemon = spawn(path, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const said = await started(t, daemon, ready);
  const ask = <T>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  const origin = emptyFile(join(folder, 'origin'), 32 * MiB);
  const { live } = await ask<{ live: string }>('volume', 'add', 'disk', origin, '--durability', 'process');
  t.teardown(() => detachLoops(live));
  const device = (await run('losetup', ['-f', '--show', live])).trim();
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const there = join(folder, 'there');
  mkdirSync(there);
  await run('mount', ['-t', 'ext4', device, there]);
  t.teardown(async () => {
    await attempt('fsfreeze', ['-u', there]);
    if ((await attempt('umount', [there])).code !== 0) await attempt('umount', ['-l', there]);
  });
  return { folder, state, mount, daemon, said, ask, there };
}

const SERVE = [ASOF, 'serve', '--state', 'STATE', '--mount', 'MOUNT', '--log-level', 'error'];

t.test('found, held, clean, and told', { skip }, async t => {
  const { folder, state, mount, ask, there } = await setUp(t, SERVE, 'ready');
  const asof = (...argv: string[]) => attempt(ASOF, [...argv, '--state', state]);
  await run('sh', ['-c', `seq 20000 > ${there}/numbers`]);
  const [made] = await ask<Snapshot[]>(
    'snapshot',
    'create',
    'disk',
    '--consistency',
    'filesystem',
    '--after-snapshot',
    'echo it is "over for $R_VOLUME_NAMES"',
    '--shell',
  );
  t.equal(made!.consistency, 'filesystem');
  await run('sh', ['-c', `seq 30000 40000 > ${there}/numbers`]);
  const copy = join(folder, 'copy');
  await run('cp', [join(mount, 'volumes/disk', made!.moment, 'disk'), copy]);
  t.notMatch(await run('dumpe2fs', ['-h', copy]), /needs_recovery/, 'no journal has to be replayed');
  t.equal((await attempt('e2fsck', ['-f', '-n', copy])).code, 0);

  const shown = (await asof('snapshot', 'show', made!.id)).stdout.toString();
  for (const line of [
    /consistency +filesystem/,
    /asked for +at least filesystem/,
    new RegExp(`${there} \\(ext4\\): held`),
    /timeline\n(?:.*\n)*.*requested\n(?:.*\n)*.*holding\n(?:.*\n)*.*taken\n(?:.*\n)*.*told\n/,
    /hold \/.*: [\d.]+ (?:ms|µs)/,
    /providers\n {2}cow: took it/,
    /AFTER_SNAPSHOT .*succeeded/,
    /\| it is over for disk/,
  ]) {
    t.match(shown, line);
  }
  t.notOk((await attempt('fsfreeze', ['-u', there])).code === 0, 'it is not frozen any more');

  const marked = await asof('snapshot', 'create', 'disk', '--after-backup', 'false');
  t.equal(marked.code, 3, 'a job that is marked is no success');
  t.match(marked.stderr, /AFTER_BACKUP failed/);
  const plain = await ask<Snapshot[]>('snapshot', 'create', 'disk', '--no-freeze');
  t.equal(plain[0]!.consistency, 'crash');

  await run('fsfreeze', ['-f', there]);
  const busy = await asof('snapshot', 'create', 'disk', '--consistency', 'filesystem');
  t.match(busy.stderr, /somebody else has frozen it/);
  const taken = await ask<Snapshot[]>('snapshot', 'create', 'disk');
  t.equal(taken[0]!.consistency, 'crash');
  t.equal((await attempt('fsfreeze', ['-u', there])).code, 0, 'and nobody else thawed it');

  // The store of another volume lies on it.
  const other = emptyFile(join(folder, 'other'), MiB);
  await ask('volume', 'add', 'other', other, '--store', join(there, 'store'));
  const refused = await asof('snapshot', 'create', 'disk', '--before-backup', `touch ${folder}/ran`);
  t.match(refused.stderr, /would wait for itself/);
  t.match(refused.stderr, /--no-freeze/);
  t.not((await attempt('ls', [`${folder}/ran`])).code, 0, 'before anything was run');
  await ask('snapshot', 'create', 'disk', '--no-freeze');
  await ask('volume', 'remove', 'other');
});

t.test('the daemon is killed between freeze and thaw', { skip }, async t => {
  const program = new URL('./stuck-daemon.js', import.meta.url).pathname;
  const { state, daemon, said, there } = await setUp(
    t,
    [process.execPath, program, 'STATE', 'MOUNT'],
    'ready\n',
  );
  const asking = spawn(ASOF, ['snapshot', 'create', 'disk', '--deadline', '600', '--state', state], {
    stdio: 'ignore',
  });
  t.teardown(() => asking.kill('SIGKILL'));
  await eventually(() => said().includes('taking'), 'all are held');
  const writer = writeTo(t, there);
  await eventually(() => stuck(writer.child), 'the file system is held');
  daemon.kill('SIGKILL');
  // Its disk is gone, so that the write may fail; but nobody waits any more.
  await eventually(() => writer.ended(), 'whoever waited goes on');
  t.not((await attempt('fsfreeze', ['-u', there])).code, 0, 'it is not frozen');
});
