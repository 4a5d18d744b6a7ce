/**
 * Snapshots of a live volume show the partitions that it had at that moment, whatever becomes of them afterwards; they can be
 * attached, and a daemon that ends detaches them first.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ASOF, asof, asofJson, eventually, peer } from '../cli/asof.js';
import {
  DRIVE_NEEDS,
  DRIVE_PEERS,
  diskOf,
  folderOf,
  inside,
  letter,
  remains,
  scratch,
  type Told,
} from '../cli/drive-lab.js';
import { attempt, missing, run } from '../peers.js';

t.setTimeout(240_000);

const skip = missing([...DRIVE_PEERS, 'dd'], DRIVE_NEEDS);

async function serve(t: Test, state: string, mount: string): Promise<ChildProcess> {
  const child = spawn(ASOF, ['serve', '--state', state, '--mount', mount, '--log-level', 'silent'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(async () => {
    await end(child, 'SIGKILL');
    await attempt('umount', ['-l', mount]);
  });
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise(done => child.on('close', done));
  child.kill(signal);
  await ended;
}

t.test('the partitions of snapshots', { skip }, async t => {
  const folder = scratch(t);
  const origin = await diskOf(t, folder, 'gpt', ['ext4', 'swap']);
  const state = join(folder, 'state');
  const mount = join(folder, 'mount');
  const dir = join(folder, 'dir');
  for (const path of [mount, dir]) mkdirSync(path);
  const daemon = await serve(t, state, mount);
  const ask = <T>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  const { live } = await ask<{ live: string }>('volume', 'add', 'disk', origin, '--durability', 'process');
  const [first] = await ask<{ id: string; moment: string }[]>('snapshot', 'create', 'disk');
  // The table and the file system are wiped; the snapshot has them still.
  writeFileSync(join(folder, 'zeros'), Buffer.alloc(2 ** 21));
  await run('dd', [
    `if=${join(folder, 'zeros')}`,
    `of=${live}`,
    'bs=1M',
    'conv=notrunc,fsync',
    'status=none',
  ]);
  const at = join(mount, 'volumes/disk', first!.moment);
  const names = async (path: string) => (await peer('timeout', '60', 'ls', path)).trim().split('\n');
  t.same(await names(at), ['disk', 'info.json', 'p1', 'p2']);
  const [second] = await ask<{ id: string; moment: string }[]>('snapshot', 'create', 'disk');
  t.same(
    await names(join(mount, 'volumes/disk', second!.moment)),
    ['disk', 'info.json'],
    'there is none any more',
  );
  t.same(await names(at), ['disk', 'info.json', 'p1', 'p2'], 'they stay when others come');
  t.equal((await asof('snapshot', 'delete', second!.id, '--state', state)).status, 0);
  t.match(JSON.parse(await peer('cat', join(at, 'info.json'))), {
    id: first!.id,
    partitionTable: { kind: 'gpt' },
    partitions: [{ fileSystem: { type: 'ext4', label: 'root' } }, { fileSystem: { type: 'swap' } }],
  });

  const told = await asofJson<Told>('attach', at, dir);
  t.ok(letter(dir));
  const child = await inside(t, join(dir, 'home'));
  const { stderr } = await asof('volume', 'remove', 'disk', '--force', '--state', state, '--json');
  t.match(JSON.parse(stderr).error, {
    code: 'VOLUME_IN_USE',
    message: new RegExp(`${told.device}, which is attached`),
    hint: `asof detach ${told.device}`,
  });
  child.kill('SIGKILL');
  await eventually(() => child.signalCode !== null, 'it has gone');
  await end(daemon, 'SIGTERM');
  t.same(remains(mount, dir, folderOf(told)), [], 'the daemon took with it what was attached');
});
