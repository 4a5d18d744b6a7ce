/**
 * A MariaDB writes to a volume without a pause, to a table with transactions and to one without; from a snapshot of it, taken
 * while its tables were locked, another one starts, has every row that was committed when the snapshot was asked for, and
 * finds both tables sound.
 */
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { eventually } from '../cli/asof.js';
import { mountOn, NEEDED } from '../cow/frozen.js';
import { emptyFile, loop, MiB, scratch } from '../cow/lab.js';
import { MARIADB, mariadb } from '../cow/servers.js';
import { Daemon } from '../end-to-end/protected.js';
import { detachLoops, missing, run } from '../peers.js';

t.setTimeout(240_000);

const skip = missing([...NEEDED, ...MARIADB], ['root', 'loop', 'fuse']);

t.test('a database comes back as of the moment', { skip }, async t => {
  const folder = scratch(t);
  chmodSync(folder, 0o755);
  const daemon = await Daemon.start(t, folder);
  const origin = emptyFile(join(folder, 'origin'), 384 * MiB);
  const live = await daemon.protect('db', origin, '--durability', 'process');
  t.teardown(() => detachLoops(live));
  const device = (await run('losetup', ['-f', '--show', live])).trim();
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const there = await mountOn(t, device, join(folder, 'there'));
  const server = await mariadb(t, join(there, 'data'));
  await server.sql(
    `CREATE DATABASE d;
     CREATE TABLE d.safe (id int PRIMARY KEY, pair int) ENGINE=InnoDB;
     CREATE TABLE d.plain (id int PRIMARY KEY, words varchar(200)) ENGINE=MyISAM`,
  );

  let committed = 0;
  let going = true;
  const inserting = (async () => {
    for (let id = 1; going; id++) {
      await server.sql(
        `BEGIN; INSERT INTO d.safe VALUES (${id}, NULL); UPDATE d.safe SET pair = ${id} WHERE id = ${id}; COMMIT;
         INSERT INTO d.plain VALUES (${id}, REPEAT('x', ${id % 200}))`,
      );
      committed = id;
    }
  })();
  await eventually(() => committed >= 5, 'it is at work');
  const before = committed;
  const [made] = await daemon.ask<{ id: string; consistency: string }[]>(
    ...['snapshot', 'create', 'db', '--writer', `mariadb:socket=${server.socket},user=root`],
    ...['--deadline', '120'],
  );
  t.equal(made!.consistency, 'application');
  const after = committed + 1;
  await eventually(() => committed > after, 'it goes on');
  going = false;
  await inserting;

  const { path } = await daemon.ask<{ path: string }>('snapshot', 'overlay', made!.id);
  t.teardown(() => detachLoops(path));
  mkdirSync(join(folder, 'restored'));
  const restored = await mountOn(t, await loop(t, path), join(folder, 'restored'));
  const again = await mariadb(t, join(restored, 'data'));
  const numbers = async (sql: string) => (await again.sql(sql)).trim().split('\t').map(Number);
  const [count, max, whole] = await numbers('SELECT count(*), max(id), count(pair) FROM d.safe');
  t.ok(max! >= before && max! <= after, `${max}, of ${before} to ${after}`);
  t.equal(count, max, 'none is missing');
  t.equal(whole, max, 'none is half');
  const [plain, last] = await numbers('SELECT count(*), max(id) FROM d.plain');
  t.equal(plain, last, 'none is missing of the other table');
  t.ok(last === max || last === max! - 1, 'and it is of the same moment');
  for (const line of (await again.sql('CHECK TABLE d.safe, d.plain EXTENDED')).trim().split('\n')) {
    t.match(line, /\tcheck\tstatus\tOK$/);
  }
  t.notMatch(again.log(), /\[ERROR\]|crashed/i, 'nor had anything to be repaired');
  await again.stop();
  await server.stop();
});
