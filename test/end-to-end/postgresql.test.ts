/**
 * PostgreSQL has its data on a volume, and works. Every snapshot of it starts after a recovery, is whole by pg_amcheck's
 * account, keeps what pgbench keeps, and has every transaction that was acknowledged before the snapshot began.
 */
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { emptyFile, MiB } from '../cow/lab.js';
import { missing } from '../peers.js';
import { Database, Ledger, PROGRAMS } from './database.js';
import { Daemon, EXT4, end, FileSystem, programsOf, replayed, type Snapshot, scratch } from './protected.js';
import { isInterrupted, limit, progress, rounds, soaking } from './soak.js';

limit(290_000);

const SNAPSHOTS = 20;
/** Transactions of the ledger between two snapshots. */
const BETWEEN = 12;
/** Those that are opened: all in a soak. The first of them while the database works, the others when it has ended. */
const OPENED = Array.from({ length: SNAPSHOTS }, (_, i) => i).filter(i => soaking || i % 6 === 1);

interface Taken {
  readonly snapshot: Snapshot;
  readonly acknowledged: number;
  readonly sent: number;
}

const skip = missing([...programsOf(EXT4), ...PROGRAMS], ['root', 'loop', 'fuse']);

t.test('snapshots of a database that works', { skip }, t => rounds(t, 1, databaseUnderLoad));

async function databaseUnderLoad(t: Test, seed: number): Promise<void> {
  const folder = scratch(t);
  const origin = emptyFile(join(folder, 'origin'), 384 * MiB);
  const daemon = await Daemon.start(t, folder);
  const live = await daemon.protect('disk', origin, '--durability', 'process');
  const files = await FileSystem.make(t, EXT4, live, folder);
  chmodSync(files.path, 0o755);
  const data = join(files.path, 'data');
  mkdirSync(data, { mode: 0o700 });
  await Database.init(data);
  const database = new Database(data);
  t.teardown(() => database.kill());
  await database.start({ lasting: true });
  await database.run('psql', '-c', 'create extension amcheck', 'template1');
  await database.run('psql', '-c', 'create extension amcheck', 'postgres');
  await database.run('psql', '-c', 'create database bench', 'postgres');
  await database.run('psql', '-c', 'create table ledger (n bigint primary key)', 'bench');
  await database.run('pgbench', '-i', '-q', '-s', '1', 'bench');
  const bench = database.spawn(
    'pgbench',
    '-n',
    '-c',
    '2',
    '-T',
    '86400',
    '--random-seed',
    String(seed),
    'bench',
  );
  let complaints = '';
  bench.stderr!.setEncoding('utf8').on('data', piece => {
    complaints += piece;
  });
  bench.stdout!.resume();
  t.teardown(() => end(bench, 'SIGKILL'));
  const ledger = new Ledger(t, database);

  const taken: Taken[] = [];
  while (taken.length < SNAPSHOTS && !isInterrupted()) {
    await ledger.progress(BETWEEN);
    const { acknowledged } = ledger;
    const snapshot = await daemon.snapshot('disk');
    taken.push({ snapshot, acknowledged, sent: ledger.sent });
    progress(`postgresql: ${taken.length} snapshots`);
    if (taken.length - 1 === OPENED[0]) await check(OPENED[0]);
  }
  t.equal(bench.exitCode, null, `pgbench works on: ${complaints}`);
  await ledger.progress(BETWEEN);
  await end(bench, 'SIGINT');
  await ledger.stop();
  await database.kill();
  await files.unmount();
  for (const i of OPENED.slice(1)) {
    if (i >= taken.length || isInterrupted()) break;
    progress(`postgresql: checking ${i + 1} of ${taken.length}`);
    await check(i);
  }

  async function check(i: number): Promise<void> {
    const { snapshot, acknowledged, sent } = taken[i]!;
    const wrong = await daemon.whileOverlaid(snapshot, path =>
      replayed(EXT4, path, there => brokenDatabase(join(there, 'data'), acknowledged, sent)),
    );
    t.same(wrong, [], `snapshot ${i}, ${acknowledged} to ${sent} acknowledged`);
  }
}

/** What is wrong with the database in `data`, in which as many transactions of the ledger are as were acknowledged. */
async function brokenDatabase(data: string, acknowledged: number, sent: number): Promise<string[]> {
  const wrong: string[] = [];
  const database = new Database(data);
  try {
    await database.start({ lasting: false });
    if (!/automatic recovery in progress/.test(database.log)) wrong.push(`no recovery: ${database.log}`);
    const check = await database.attempt('pg_amcheck', '--all');
    if (check.code !== 0) wrong.push(`pg_amcheck ended with ${check.code}: ${check.stdout}${check.stderr}`);
    const sums = await database.run(
      'psql',
      '-Atc',
      `select (select sum(tbalance) from pgbench_tellers), (select sum(abalance) from pgbench_accounts),
        (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)`,
      'bench',
    );
    if (new Set(sums.split('|')).size !== 1) wrong.push(`pgbench's sums differ: ${sums}`);
    const counted = await database.run('psql', '-Atc', 'select count(*), max(n) from ledger', 'bench');
    const [count, last] = counted.split('|').map(Number);
    if (count !== last || count! < acknowledged || count! > sent) {
      wrong.push(`the ledger has ${counted}, ${acknowledged} were acknowledged, ${sent} sent`);
    }
    return wrong;
  } catch (error) {
    return [...wrong, String(error)];
  } finally {
    await database.kill();
  }
}
