/**
 * The whole of it, over FUSE: a file system lives on a loop device over a live volume; its snapshots are right, are found by
 * time, outlive the daemon, and end as errors, not as other bytes, where the store could not keep them.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { ASOF, asofJson, eventually } from '../cli/asof.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(180_000);

interface Snapshot {
  readonly id: string;
  readonly moment: string;
  readonly at: string;
  readonly state: string;
  readonly why: string;
}

const skip = missing(
  ['mke2fs', 'e2fsck', 'losetup', 'mount', 'umount', 'cmp', 'cp', 'dd', 'ls', 'cat'],
  ['root', 'loop', 'fuse'],
);

async function setUp(t: Test) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const mount = join(folder, 'mount');
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const daemon = await serve(t, state, mount);
  const ask = <T>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  return { folder, state, mount, daemon, ask };
}

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

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = new Promise(done => child.on('close', done));
    child.kill(signal);
    await ended;
  }
  return child.exitCode;
}

/** The names in a folder of the mount, asked by another process. */
async function names(path: string): Promise<string[]> {
  return (await run('ls', ['-1', path])).trim().split('\n').sort();
}

t.test('an ext4 lives on it', { skip }, async t => {
  const { folder, state, mount, daemon, ask } = await setUp(t);
  const origin = emptyFile(join(folder, 'origin'), 64 * MiB);
  const { live } = await ask<{ live: string }>('volume', 'add', 'disk', origin, '--durability', 'process');
  t.equal(live, join(mount, 'volumes/disk/live'));
  const device = (await run('losetup', ['-f', '--show', live])).trim();
  t.teardown(() => detachLoops(live));
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const there = join(folder, 'there');
  mkdirSync(there);
  await run('mount', ['-t', 'ext4', device, there]);
  t.teardown(() => attempt('umount', [there]));

  const moments: { snapshot: Snapshot; copy: string }[] = [];
  for (let round = 0; round < 3; round++) {
    const bytes = join(folder, `bytes-${round}`);
    writeFileSync(bytes, randomBytes(3 * MiB + 17));
    await run('cp', [bytes, join(there, `file-${round}`)]);
    await run('cp', [bytes, join(there, 'latest')]);
    await run('sync', ['-f', there]);
    const [snapshot] = await ask<Snapshot[]>('snapshot', 'create', 'disk');
    const newest = await run('cat', [join(mount, 'volumes/disk/@2100-01-01/info.json')]);
    t.equal(
      (JSON.parse(newest) as Snapshot).id,
      snapshot!.id,
      'a later time is the newest, as soon as there is a newer',
    );
    moments.push({ snapshot: snapshot!, copy: join(folder, `copy-${round}`) });
    await run('cp', [join(mount, 'volumes/disk', snapshot!.moment, 'disk'), moments[round]!.copy]);
  }
  t.same(
    await names(join(mount, 'volumes/disk')),
    [...moments.map(one => one.snapshot.moment), 'info.json', 'live'].sort(),
  );

  for (const [round, { snapshot, copy }] of moments.entries()) {
    const disk = join(mount, 'volumes/disk', snapshot.moment, 'disk');
    t.equal((await attempt('cmp', [disk, copy])).code, 0, 'what it was when it was new');
    t.equal(
      (await attempt('cmp', [join(mount, `volumes/disk/@${snapshot.at}`, 'disk'), copy])).code,
      0,
      'by its time',
    );
    const info = JSON.parse(
      await run('cat', [join(mount, 'volumes/disk', snapshot.moment, 'info.json')]),
    ) as Snapshot;
    t.match(info, { id: snapshot.id, state: 'live', consistency: 'filesystem' });
    // The journal is replayed in a copy: a snapshot cannot be written.
    const work = `${copy}-work`;
    await run('cp', [copy, work]);
    t.ok((await attempt('e2fsck', ['-p', work])).code <= 1, 'its journal replays');
    t.equal((await attempt('e2fsck', ['-f', '-n', work])).code, 0, 'and it is whole');
    const inside = join(folder, `inside-${round}`);
    mkdirSync(inside);
    await run('mount', ['-o', 'loop', work, inside]);
    try {
      t.equal((await attempt('cmp', [join(inside, 'latest'), join(folder, `bytes-${round}`)])).code, 0);
      t.equal((await names(inside)).filter(name => name.startsWith('file-')).length, round + 1);
    } finally {
      await run('umount', [inside]);
    }
  }
  t.not(
    (await attempt('ls', [join(mount, 'volumes/disk/@2001-01-01')])).code,
    0,
    'before the first there is none',
  );
  t.not(
    (
      await attempt('dd', [
        'if=/dev/zero',
        `of=${join(mount, 'volumes/disk', moments[0]!.snapshot.moment, 'disk')}`,
        'count=1',
      ])
    ).code,
    0,
  );

  const middle = moments[1]!.snapshot;
  await ask('snapshot', 'delete', middle.id);
  t.notOk((await names(join(mount, 'volumes/disk'))).includes(middle.moment), 'its name goes with it');
  for (const one of [moments[0]!, moments[2]!]) {
    const disk = join(mount, 'volumes/disk', one.snapshot.moment, 'disk');
    t.equal((await attempt('cmp', [disk, one.copy])).code, 0, 'its neighbours are what they were');
  }

  const removal = await attempt(ASOF, ['volume', 'remove', '--force', 'disk', '--state', state]);
  t.match(
    removal.stderr,
    `the volume disk is in use by ${device}`,
    'its disk is not taken away from a file system',
  );

  daemon.kill('SIGTERM');
  const still = await ask<unknown[]>('volume', 'list');
  t.equal(still.length, 1, 'a stop waits for the file system on the live device');
  await run('umount', [there]);
  await run('losetup', ['-d', device]);
  await eventually(() => daemon.exitCode !== null, 'the daemon has stopped');
  t.equal(daemon.exitCode, 0);
  t.equal((await attempt('e2fsck', ['-f', '-n', origin])).code, 0, 'the origin is whole');

  await serve(t, state, mount);
  const after = await ask<Snapshot[]>('snapshot', 'list');
  t.same(
    after.map(({ id, state }) => ({ id, state })),
    [moments[0]!, moments[2]!].map(({ snapshot }) => ({ id: snapshot.id, state: 'live' })),
  );
  t.match(await ask('volume', 'show', 'disk'), { tracking: { state: 'exact' } });
});

t.test('a store that is full: the volume goes on, the snapshot is an error', { skip }, async t => {
  const { folder, mount, ask } = await setUp(t);
  const origin = join(folder, 'origin');
  writeFileSync(origin, randomBytes(8 * MiB));
  const { live } = await ask<{ live: string }>(
    'volume',
    'add',
    'disk',
    origin,
    '--store-limit',
    '2M',
    '--durability',
    'process',
  );
  const [snapshot] = await ask<Snapshot[]>('snapshot', 'create', 'disk');
  const disk = join(mount, 'volumes/disk', snapshot!.moment, 'disk');
  t.equal((await attempt('cmp', [disk, origin])).code, 0, 'read once, and in the page cache');
  const other = join(folder, 'other');
  writeFileSync(other, randomBytes(8 * MiB));
  await run('dd', [`if=${other}`, `of=${live}`, 'bs=64k', 'conv=notrunc,fsync', 'status=none']);
  t.equal((await attempt('cmp', [live, other])).code, 0, 'the writer was not bothered');
  const [told] = await ask<Snapshot[]>('snapshot', 'show', snapshot!.id);
  t.equal(told!.state, 'broken');
  t.match(told!.why, /./);
  await eventually(
    async () => (await attempt('dd', [`if=${disk}`, 'of=/dev/null', 'bs=64k', 'count=1'])).code !== 0,
    'reads of it fail',
  );
  const events = (await ask<{ events: { kind: string }[] }>('volume', 'show', 'disk')).events.map(
    ({ kind }) => kind,
  );
  t.ok(events.includes('broken') && events.includes('low-water'), events.join());
});

t.test('what is in the daemon’s own mount cannot be an origin', { skip }, async t => {
  const { folder, ask, state } = await setUp(t);
  const { live } = await ask<{ live: string }>(
    'volume',
    'add',
    'disk',
    emptyFile(join(folder, 'origin'), MiB),
  );
  const denied = await attempt(ASOF, ['volume', 'add', 'other', live, '--state', state]);
  t.match(denied.stderr, /own mount/);

  // Nor a store, on whatever way it is reached: the daemon would wait for itself, for ever.
  const link = join(folder, 'link');
  symlinkSync(dirname(live), link);
  const other = emptyFile(join(folder, 'other-origin'), MiB);
  for (const store of [`${link}/store`, `${link}/@2026-11-27/store`, `${dirname(live)}/store`]) {
    const refused = await attempt(ASOF, [
      'volume',
      'add',
      'other',
      other,
      '--store',
      store,
      '--state',
      state,
    ]);
    t.match(refused.stderr, /cannot use .* as a store: .*(?:own mount|does not exist)/);
  }
});
