/**
 * What a snapshot is for: a PostgreSQL writes to a volume without a pause; from a snapshot of it, another one starts, and has
 * every row that was committed when the snapshot was asked for, and none of a transaction that was not.
 */
import { spawn } from 'node:child_process';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ASOF, asofJson, eventually } from '../cli/asof.js';
import { mountOn, NEEDED } from '../cow/frozen.js';
import { emptyFile, loop, MiB, scratch } from '../cow/lab.js';
import { POSTGRESQL, postgresql } from '../cow/servers.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(240_000);

const skip = missing([...NEEDED, ...POSTGRESQL, 'cp'], ['root', 'loop', 'fuse']);

t.test('a database comes back as of the moment', { skip }, async t => {
  const folder = scratch(t);
  chmodSync(folder, 0o755);
  const state = join(folder, 'state');
  const mount = join(folder, 'mount');
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const daemon = spawn(ASOF, ['serve', '--state', state, '--mount', mount, '--log-level', 'error'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => void daemon.kill('SIGKILL'));
  let said = '';
  daemon.stdout.setEncoding('utf8').on('data', piece => {
    said += piece;
  });
  await eventually(() => said.includes('ready') || daemon.exitCode !== null, 'the daemon is ready');
  const ask = <T>(...argv: string[]) => asofJson<T>(...argv, '--state', state);
  const origin = emptyFile(join(folder, 'origin'), 256 * MiB);
  const { live } = await ask<{ live: string }>('volume', 'add', 'db', origin, '--durability', 'process');
  t.teardown(() => detachLoops(live));
  const device = (await run('losetup', ['-f', '--show', live])).trim();
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const there = await mountOn(t, device, join(folder, 'there'));
  const server = await postgresql(t, join(there, 'data'), join(folder, 'sockets'));
  await server.psql('CREATE TABLE rows (id int PRIMARY KEY, pair int)');

  let committed = 0;
  let going = true;
  const inserting = (async () => {
    for (let id = 1; going; id++) {
      await server.psql(
        `BEGIN; INSERT INTO rows VALUES (${id}, NULL); UPDATE rows SET pair = ${id} WHERE id = ${id}; COMMIT`,
      );
      committed = id;
    }
  })();
  await eventually(() => committed >= 5, 'it is at work');
  const before = committed;
  const [made] = await ask<{ id: string; moment: string; consistency: string }[]>(
    'snapshot',
    'create',
    'db',
    '--writer',
    `postgresql:host=${server.sockets},user=postgres,backup=always`,
    '--deadline',
    '120',
  );
  t.equal(made!.consistency, 'application');
  const after = committed + 1;
  await eventually(() => committed > after, 'it goes on');
  going = false;
  await inserting;
  const [shown] = await ask<{ record: { notes: { text: string }[] } }[]>('snapshot', 'show', made!.id);
  t.match(shown!.record.notes[0]!.text, /LABEL: asof/);
  await server.stop();

  const copy = join(folder, 'copy');
  await run('cp', [join(mount, 'volumes/db', made!.moment, 'disk'), copy]);
  t.teardown(() => detachLoops(copy));
  const restored = await mountOn(t, await loop(t, copy), join(folder, 'restored'));
  rmSync(join(restored, 'data/postmaster.pid'), { force: true });
  const again = await postgresql(t, join(restored, 'data'), join(folder, 'other-sockets'));
  const [count, max, whole] = (await again.psql('SELECT count(*), max(id), count(pair) FROM rows'))
    .trim()
    .split('|')
    .map(Number);
  t.ok(max! >= before && max! <= after, `${max}, of ${before} to ${after}`);
  t.equal(count, max, 'none is missing');
  t.equal(whole, max, 'none is half');
  await again.stop();
});
