/**
 * Backups that a real daemon runs by itself: points of a history that are right, thinned by rules, with the commands around
 * them; and ones that fail.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { asof } from '../cli/asof.js';
import { convert } from '../image/peer.js';
import { missing } from '../peers.js';
import { backupLab, MiB } from './backup-schedule.js';
import { serve } from './configured.js';

t.setTimeout(180_000);

const skip = missing(['umount', 'qemu-img'], ['fuse']);

t.test('a group, with commands and rules', { skip }, async t => {
  const { folder, state, history, bytes, config, configure, ask, told, listed } = backupLab(t, MiB);
  const trace = join(folder, 'trace');
  const commands = ['beforeBackup', 'afterSnapshot', 'afterBackup']
    .map(name => `${name}: "echo $R_CALLBACK_STAGE $(ls ${history} 2>/dev/null | grep -c json) >> ${trace}"`)
    .join(', ');
  configure(
    `  s: {volumes: ["@both"], cron: "30 2 29 2 *", shell: true, ${commands}, backup: {to: history, compress: none, label: by night, keep: {last: 2}}}\n`,
  );
  const stop = await serve(t, config);
  t.match(await told(), {
    to: history,
    last: null,
    exposure: [
      { volume: 'a', point: null },
      { volume: 'b', point: null },
    ],
  });
  const first = await ask('schedule', 'run', 's');
  t.match(first, { last: { outcome: 'done', points: [{ volume: 'a' }, { volume: 'b' }], groups: [] } });
  t.equal(
    readFileSync(trace, 'utf8'),
    'BEFORE_BACKUP 0\nAFTER_SNAPSHOT 0\nAFTER_BACKUP 2\n',
    'around all of it',
  );
  t.same(await ask<unknown[]>('snapshot', 'list'), [], 'no snapshot is left');
  const { points } = await listed();
  t.same(points.map(({ id }) => id).sort(), first.last!.points!.map(({ id }) => id).sort());
  for (const { manifest } of points) {
    t.ok(convert(join(history, manifest.image.file)).equals(bytes[manifest.volume.name as 'a' | 'b']));
    t.equal(manifest.label, 'by night');
  }
  t.equal(points[0]!.manifest.time, points[1]!.manifest.time, 'they are one moment');
  for (let i = 0; i < 2; i++) await ask('schedule', 'run', 's');
  const last = await told();
  t.match(
    last.exposure,
    last.last!.points!.map(({ volume, id }) => ({ volume, point: id, seconds: Number })),
  );
  const kept = (await listed()).points;
  t.equal(kept.length, 4, 'two of each');
  t.ok(last.last!.points!.every(({ id }) => kept.some(one => one.id === id)));
  const list = (await asof('schedule', 'list', '--state', state)).stdout.toString();
  t.match(list, new RegExp(`done +${last.last!.points!.map(({ id }) => id.slice(0, 8)).join(',')} `));
  // By hand, of the same group, into the same history.
  const byHand = await ask<Manifest[]>('backup', '@both', '--to', history);
  t.match(byHand, [
    { volume: { name: 'a' }, method: 'tracked' },
    { volume: { name: 'b' }, method: 'tracked' },
  ]);
  t.same(
    (await told()).exposure.map(({ point }) => point),
    last.exposure.map(({ point }) => point),
    'its own count',
  );
  await stop();
  const again = await serve(t, config);
  t.same(
    (await told()).exposure.map(({ point }) => point),
    last.exposure.map(({ point }) => point),
    'kept',
  );
  t.equal((await asof('verify', history, '--deep')).status, 0);
  await again();
});

t.test('one that fails', { skip }, async t => {
  const { history, config, configure, told, ask, state, listed } = backupLab(t, MiB);
  mkdirSync(history);
  configure(`  s: {volumes: [a], cron: "@yearly", backup: {to: history}}
  nowhere: {volumes: [b], cron: "@yearly", backup: {to: a/b}}
  nobody: {volumes: [a], cron: "@yearly", beforeBackup: "false", backup: {to: history}}
`);
  const stop = await serve(t, config);
  const failing = await asof('schedule', 'run', 'nowhere', '--state', state, '--json');
  t.match(failing, { status: 2, stderr: /"code":"IO".*cannot hold a history/ });
  t.match(await ask('schedule', 'show', 'nowhere'), {
    failures: 1,
    last: { outcome: 'failed', why: /ENOTDIR/ },
  });
  t.match(await asof('schedule', 'run', 'nobody', '--state', state), {
    status: 2,
    stderr: /BEFORE_BACKUP failed/,
  });
  t.same(await ask<unknown[]>('snapshot', 'list'), []);
  await ask('schedule', 'run', 's');
  t.match(await told(), { failures: 0, last: { outcome: 'done' } });
  t.match(await listed(), {
    points: { length: 1 },
    failures: [{ code: 'COMMAND_FAILED', volume: { name: 'a' } }],
  });
  await stop();
});
