/** The writer `postgresql`, with a real server. */
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import { makeWriter } from '../../src/cow/writers/table.js';
import { missing } from '../peers.js';
import { scratch } from './lab.js';
import { POSTGRESQL, postgresql } from './servers.js';

t.setTimeout(120_000);
const never = new AbortController().signal;

t.test('with a real server', { skip: missing(POSTGRESQL, ['root']) }, async t => {
  const folder = scratch(t);
  chmodSync(folder, 0o755);
  const server = await postgresql(t, join(folder, 'data'), join(folder, 'sockets'));
  await server.psql('CREATE TABLE rows (id int)');
  const notes: string[] = [];
  const writer = (volumes: string[], more: Record<string, string> = {}) =>
    makeWriter(
      { kind: 'postgresql', settings: { host: server.sockets, user: 'postgres', ...more } },
      { clock: SYSTEM_CLOCK, volumes, note: text => notes.push(text) },
    );
  const checkpoint = async () =>
    (await server.psql('SELECT checkpoint_lsn FROM pg_control_checkpoint()')).trim();
  const sessions = async () =>
    (await server.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asof'")).trim();

  await t.test('one volume: a checkpoint, and no backup mode', async t => {
    const one = writer(['a']);
    await server.psql('INSERT INTO rows VALUES (1)');
    const before = await checkpoint();
    await one.prepare!(never);
    t.not(await checkpoint(), before);
    await one.hold(never);
    await server.psql('INSERT INTO rows VALUES (2)');
    await one.release(never, true);
    t.same(notes, []);
  });

  await t.test('two volumes: backup mode over the moment, and its label is kept', async t => {
    const two = writer(['a', 'b']);
    await two.prepare!(never);
    await two.hold(never);
    t.equal(await sessions(), '1');
    await two.release(never, true);
    t.match(notes[0], /START WAL LOCATION: [\s\S]*LABEL: asof/);
  });

  await t.test('a server that ends the connection did not hold', async t => {
    const lost = writer(['a', 'b']);
    await lost.prepare!(never);
    await lost.hold(never);
    await server.psql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'asof'",
    );
    await t.rejects(lost.release(never, true), /terminating connection|server closed/);
  });

  await t.test('what the server refuses is said', async t => {
    await t.rejects(writer(['a'], { user: 'nobody-here' }).prepare!(never), /nobody-here/);
    await t.rejects(writer(['a'], { host: folder }).prepare!(never), /No such file/);
  });

  await t.test('a client that hangs is killed when nobody waits any more', async t => {
    const control = new AbortController();
    const slow = writer(['a'], { psql: '/usr/bin/yes' });
    const preparing = slow.prepare!(control.signal);
    control.abort(new Error('too late'));
    await t.rejects(preparing, /too late/);
    await t.resolves(slow.release(never, false).catch(() => undefined));
  });

  t.equal(await sessions(), '0', 'nobody is left');
});

t.test('settings', async t => {
  const make = (settings: Record<string, string>) =>
    makeWriter({ kind: 'postgres', settings }, { clock: SYSTEM_CLOCK, volumes: [], note: () => {} });
  t.throws(() => make({ backup: 'sometimes' }), { code: 'USAGE' });
  t.throws(() => make({ password: 'x' }), { code: 'USAGE', hint: /passfile/ });
  t.throws(() => makeWriter({ kind: 'oracle' }, { clock: SYSTEM_CLOCK, volumes: [], note: () => {} }), {
    code: 'USAGE',
    hint: /postgresql, postgres, mysql, mariadb, qemu/,
  });
});
