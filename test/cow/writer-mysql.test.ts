/** The writer `mysql`, with a real MariaDB: nobody writes while it holds. */
import { spawn } from 'node:child_process';
import t from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import { makeWriter } from '../../src/cow/writers/table.js';
import { eventually } from '../cli/asof.js';
import { missing } from '../peers.js';
import { MARIADB, mariadb } from './servers.js';

t.setTimeout(120_000);
const never = new AbortController().signal;

t.test('with a real server', { skip: missing(MARIADB, ['root']) }, async t => {
  const server = await mariadb(t);
  await server.sql('CREATE DATABASE d; CREATE TABLE d.r (id int) ENGINE=Aria');
  const writer = (more: Record<string, string> = {}) =>
    makeWriter(
      { kind: 'mariadb', settings: { socket: server.socket, user: 'root', client: 'mariadb', ...more } },
      { clock: SYSTEM_CLOCK, volumes: ['a'], note: () => {} },
    );
  const insert = () => {
    const child = spawn('mariadb', [...server.client, '-e', 'INSERT INTO d.r VALUES (1)'], {
      stdio: 'ignore',
    });
    t.teardown(() => child.kill('SIGKILL'));
    return { ended: () => child.exitCode !== null };
  };
  const waiting = async () => (await server.sql('SHOW PROCESSLIST')).includes('Waiting for');
  const rows = async () => Number(await server.sql('SELECT count(*) FROM d.r'));

  await t.test('who writes waits until it is released', async t => {
    const one = writer();
    await one.prepare!(never);
    await one.hold(never);
    const before = await rows();
    const other = insert();
    await eventually(waiting, 'the other waits');
    t.equal(await rows(), before);
    await one.release(never, true);
    await eventually(() => other.ended(), 'the other goes on');
    t.equal(await rows(), before + 1);
  });

  await t.test('the server ends the connection: it did not hold', async t => {
    const one = writer();
    await one.prepare!(never);
    await one.hold(never);
    const id = (await server.sql('SHOW PROCESSLIST'))
      .split('\n')
      .find(line => !line.includes('SHOW PROCESSLIST') && line.includes('root'))!
      .split('\t')[0];
    await server.sql(`KILL ${id}`);
    await t.rejects(one.release(never, true), /./);
    await server.sql('INSERT INTO d.r VALUES (2)');
  });

  await t.test('nobody waits any more: the lock goes with its client', async t => {
    const one = writer();
    await one.prepare!(never);
    await one.hold(never);
    const control = new AbortController();
    control.abort(new Error('too late'));
    await t.rejects(one.release(control.signal, true), /too late/);
    await server.sql('INSERT INTO d.r VALUES (3)');
  });

  await t.test('what the server refuses is said', async t => {
    await t.rejects(writer({ user: 'nobody-here' }).prepare!(never), /nobody-here/);
  });
});
