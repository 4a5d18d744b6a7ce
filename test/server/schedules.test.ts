/** Schedules of a real daemon: by commands, over restarts, also one that is killed in the middle of a run. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { eventually } from '../cli/asof.js';
import { attempt, missing } from '../peers.js';
import { serve, setting } from './configured.js';

t.setTimeout(180_000);

t.test('a schedule of a group', async t => {
  const { config, ask, said } = setting(
    t,
    `  nightly: {volumes: ["@both"], cron: "30 2 29 2 *", keep: 2}
  marked: {volumes: [a], every: 366d, afterBackup: "echo no; exit 5", shell: true}
`,
  );
  const stop = await serve(t, config);
  await eventually(
    async () => (await ask('schedule', 'show', 'marked')).state === 'waiting',
    'every begins at once',
  );
  t.match(await ask('schedule', 'show', 'marked'), { last: { outcome: 'marked', why: /AFTER_BACKUP/ } });
  t.match(await ask('schedule', 'show', 'nightly'), {
    state: 'waiting',
    last: null,
    exposure: [{ volume: 'a' }, { volume: 'b', point: null }],
  });
  const [manual] = await ask<{ id: string }[]>('snapshot', 'create', 'a');
  for (let i = 0; i < 3; i++) t.match(await ask('schedule', 'run', 'nightly'), { last: { outcome: 'done' } });
  const told = await ask('schedule', 'show', 'nightly');
  t.equal(told.groups.length, 2);
  const snapshots = await ask<{ id: string; group: string; volume: string }[]>('snapshot', 'list');
  for (const group of told.groups) {
    t.same(
      snapshots
        .filter(one => one.group === group)
        .map(one => one.volume)
        .sort(),
      ['a', 'b'],
    );
  }
  t.equal(snapshots.length, 4 + 2, 'those, what was taken by hand, and what the other took');
  t.ok(snapshots.some(({ id }) => id === manual!.id));
  t.ok(told.exposure.every(({ point }) => snapshots.find(one => one.id === point)?.group === told.groups[1]));
  const list = await said('schedule', 'list');
  t.match(list.stdout, /^NAME +VOLUMES +WHEN +NEXT +LAST +OUTCOME +POINT +EXPOSED\n/);
  t.match(list.stdout, /nightly +@both +30 2 29 2 \* +20\d\d-02-2.* +done +- +\d/);
  t.match(await said('schedule', 'run', 'marked'), { status: 3 });
  t.match(await said('schedule', 'run', 'nobody'), { status: 2, stderr: /there are nightly, marked/ });
  t.match(await said('schedule', 'pause', 'nightly'), { status: 0, stdout: /state +paused/ });
  await stop();
  const again = await serve(t, config);
  t.match(await ask('schedule', 'show', 'nightly'), { state: 'paused', groups: told.groups, next: null });
  t.match(await said('schedule', 'resume', 'nightly'), { status: 0, stdout: /state +waiting/ });
  await ask('volume', 'remove', 'b', '--force');
  t.match(await said('schedule', 'run', 'nightly'), { status: 2, stderr: /there is no volume "b"/ });
  t.match(await ask('schedule', 'show', 'nightly'), { failures: 1, last: { outcome: 'failed' } });
  await again();
});

t.test('killed in the middle of a run: made up for at the next start', async t => {
  const { folder, config, ask } = setting(t, '');
  const trace = join(folder, 'trace');
  // The first one hangs when its snapshot is there.
  const hang = `echo $$ >> ${trace}; test $(wc -l < ${trace}) -gt 1 || sleep 1000`;
  writeFileSync(
    config,
    `${readFileSync(config, 'utf8')}  s: {volumes: [a], every: 366d, shell: true, afterBackup: "${hang}"}\n`,
  );
  const kill = await serve(t, config);
  await eventually(() => existsSync(trace) && readFileSync(trace, 'utf8').endsWith('\n'), 'it runs');
  t.match(await ask('schedule', 'show', 's'), { state: 'running' });
  await kill('SIGKILL');
  const stop = await serve(t, config);
  await eventually(
    async () => (await ask('schedule', 'show', 's')).last?.outcome === 'done',
    'it runs again',
  );
  const { groups } = await ask('schedule', 'show', 's');
  const snapshots = await ask<{ group: string }[]>('snapshot', 'list');
  t.equal(snapshots.length, 2);
  t.same(
    groups,
    snapshots.map(({ group }) => group),
    'both are its own',
  );
  await stop();
});

t.test('a point that somebody reads stays', { skip: missing(['sh', 'umount'], ['fuse']) }, async t => {
  const { folder, config, ask } = setting(t, '  s: {volumes: [a], cron: "@yearly", keep: 1}\n');
  const mount = join(folder, 'mount');
  mkdirSync(mount);
  writeFileSync(config, `mount: mount\n${readFileSync(config, 'utf8')}`);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const stop = await serve(t, config);
  const { groups } = await ask('schedule', 'run', 's');
  const [first] = await ask<{ moment: string }[]>('snapshot', 'list');
  const disk = join(mount, 'volumes/a', first!.moment, 'disk');
  const reader = spawn('sh', ['-c', 'exec 3<"$0"; echo; read line', disk], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const gone = new Promise(done => reader.on('close', done));
  t.teardown(() => reader.kill('SIGKILL'));
  await new Promise(done => reader.stdout.once('data', done));
  t.match(await ask('schedule', 'run', 's'), {
    groups: { length: 2, 0: groups[0] },
    last: { outcome: 'done', warnings: [/could not be deleted: .* is in use by sh /] },
  });
  reader.stdin.end();
  await gone;
  t.match(await ask('schedule', 'run', 's'), { groups: { length: 1 }, last: { warnings: [] } });
  await stop();
});
