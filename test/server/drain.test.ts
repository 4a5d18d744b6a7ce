/**
 * Leases of a real daemon, as their owner sees them: what is given back is copied no more and is an error for everybody, what had
 * to be preserved is told, and the snapshot goes with its owner, however he goes.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Client } from '../../src/cli/client.js';
import { ASOF, eventually } from '../cli/asof.js';
import { scratch } from '../cow/lab.js';
import { noise } from '../image/peer.js';
import { attempt, missing } from '../peers.js';

t.setTimeout(120_000);

const CHUNK = 65536;
const SIZE = 64 * CHUNK;
const skip = missing(['umount', 'sh'], ['fuse']);

interface Begun {
  readonly lease: string;
  readonly snapshots: readonly { readonly id: string; readonly moment: string; readonly drains: boolean }[];
}

async function serve(t: Test, folder: string): Promise<ChildProcess> {
  const [state, mount] = [join(folder, 'state'), join(folder, 'mount')];
  const argv = ['serve', '--state', state, '--mount', mount, '--log-level', 'silent', '--json'];
  const child = spawn(ASOF, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(() => end(child, 'SIGKILL'));
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise(done => child.on('close', done));
  child.kill(signal);
  await ended;
}

async function lab(t: Test) {
  const folder = scratch(t);
  const mount = join(folder, 'mount');
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const bytes = noise(1, SIZE);
  writeFileSync(join(folder, 'origin.img'), bytes);
  const daemon = await serve(t, folder);
  const client = new Client({ state: join(folder, 'state') });
  await client.ask('POST', '/volumes', {
    name: 'vol',
    origin: join(folder, 'origin.img'),
    durability: 'process',
  });
  const write = (chunk: number, count = 1) => {
    const fd = openSync(join(mount, 'volumes/vol/live'), 'r+');
    writeSync(fd, noise(1000 + chunk, count * CHUNK), 0, count * CHUNK, chunk * CHUNK);
    closeSync(fd);
  };
  const counters = async () =>
    (await client.ask<{ counters: { copies: number; preserved: number } }>('GET', '/volumes/vol/activity'))
      .counters;
  const snapshots = () => client.ask<{ id: string; temporary?: boolean }[]>('GET', '/snapshots');
  return { folder, mount, bytes, daemon, client, write, counters, snapshots };
}

const extentsOf = (chunk: number, count: number) => [{ start: chunk * CHUNK, length: count * CHUNK }];

t.test('drained', { skip }, async t => {
  const { mount, bytes, client, write, counters, snapshots } = await lab(t);
  const held = await client.hold<Begun>('POST', '/leases', { volumes: ['vol'] });
  const {
    lease,
    snapshots: [snapshot],
  } = held.first;
  t.equal(snapshot!.drains, true);
  t.match(await snapshots(), [{ id: snapshot!.id, temporary: true }]);
  const drain = (extents: unknown[]) =>
    client.ask('POST', `/leases/${lease}/drain`, { snapshot: snapshot!.id, extents });
  const disk = join(mount, 'volumes/vol', snapshot!.moment, 'disk');
  const fd = openSync(disk, 'r');
  t.teardown(() => closeSync(fd));
  const read = (chunk: number) => {
    const into = Buffer.alloc(CHUNK);
    readSync(fd, into, 0, CHUNK, chunk * CHUNK);
    return into.equals(bytes.subarray(chunk * CHUNK, (chunk + 1) * CHUNK));
  };
  write(40, 3);
  t.same(await drain([]), { extents: extentsOf(40, 3) }, 'what was preserved');
  write(50);
  t.same(await drain(extentsOf(0, 32)), { extents: extentsOf(50, 1) }, 'what came since');
  t.equal((await counters()).copies, 4);
  write(0, 32);
  t.match(await counters(), { copies: 4, preserved: 4 }, 'no copy behind the imager');
  t.throws(() => read(31), { code: 'EIO' }, 'an error, not what was written');
  t.ok(read(32) && read(41) && read(50) && read(63), 'the rest is as it was');
  t.same(await drain([...extentsOf(40, 3), ...extentsOf(50, 1)]), { extents: [] });
  t.equal((await counters()).preserved, 0, 'given back');
  const [{ id: own }] = (await client.ask<{ id: string }[]>('POST', '/snapshots', { volumes: ['vol'] })) as [
    { id: string },
  ];
  await t.rejects(client.ask('POST', `/leases/${lease}/drain`, { snapshot: own, extents: [] }), {
    code: 'SNAPSHOT_UNKNOWN',
  });
  await t.rejects(client.ask('POST', `/snapshots/${snapshot!.id}/release`, { extents: [] }), {
    code: 'USAGE',
  });
  await t.rejects(client.ask('POST', `/snapshots/${snapshot!.id}/overlay`, {}), { code: 'OVERLAY_UNUSABLE' });
  await t.rejects(drain(extentsOf(63, 2)), { code: 'OUT_OF_RANGE' });
  t.same(await client.ask('DELETE', `/leases/${lease}`), { lease, marks: [] });
  await held.ended;
  t.match(await snapshots(), [{ id: own }], 'it is gone, and no other');
  await t.rejects(client.ask('DELETE', `/leases/${lease}`), { code: 'LEASE_UNKNOWN' });
});

t.test('an owner who goes without a word', { skip }, async t => {
  const { client, snapshots } = await lab(t);
  const held = await client.hold<Begun>('POST', '/leases', { volumes: ['vol'] });
  t.equal((await snapshots()).length, 1);
  held.close();
  await eventually(async () => (await snapshots()).length === 0, 'its snapshot goes');
});

t.test('a daemon that is killed, and commands that stand around all of it', { skip }, async t => {
  const { folder, client, daemon, snapshots } = await lab(t);
  const trace = join(folder, 'trace');
  const said = () => (existsSync(trace) ? readFileSync(trace, 'utf8') : '');
  const commands = {
    shell: true,
    ...Object.fromEntries(
      ['beforeBackup', 'beforeSnapshot', 'afterSnapshot', 'afterBackup'].map(name => [
        name,
        `echo "$R_CALLBACK_STAGE $R_CALLBACK_UID" >> ${trace}`,
      ]),
    ),
  };
  const held = await client.hold<Begun>('POST', '/leases', { volumes: ['vol'], commands });
  const { lease } = held.first;
  const three = ['BEFORE_BACKUP', 'BEFORE_SNAPSHOT', 'AFTER_SNAPSHOT']
    .map(stage => `${stage} ${lease}\n`)
    .join('');
  t.equal(said(), three, 'not the last one yet');
  await client.ask('DELETE', `/leases/${lease}`);
  t.equal(said(), `${three}AFTER_BACKUP ${lease}\n`);
  const second = await client.hold<Begun>('POST', '/leases', { volumes: ['vol'] });
  await end(daemon, 'SIGKILL');
  await second.ended;
  await attempt('umount', ['-l', join(folder, 'mount')]);
  const again = await serve(t, folder);
  t.same(await snapshots(), [], 'the next start deletes it');
  t.same(
    await client
      .ask('GET', '/volumes/vol/activity')
      .then(one => (one as { counters: { preserved: number } }).counters.preserved),
    0,
  );
  const third = await client.hold<Begun>('POST', '/leases', { volumes: ['vol'] });
  await end(again);
  await third.ended;
  await serve(t, folder);
  t.same(await snapshots(), [], 'a clean stop does too');
});
