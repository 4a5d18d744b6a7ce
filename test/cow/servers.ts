/** Real servers to hold still: PostgreSQL and MariaDB in a folder of the test's own, reached through a socket there. */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { eventually } from '../cli/asof.js';
import { attempt, run } from '../peers.js';

export const POSTGRESQL = ['psql', 'pg_ctlcluster', 'runuser'] as const;
export const MARIADB = ['mariadbd', 'mariadb', 'mariadb-install-db'] as const;

/** Where Debian keeps the server of the newest version. */
function postgresqlBin(name: string): string {
  const root = '/usr/lib/postgresql';
  const newest = readdirSync(root).sort((a, b) => Number(b) - Number(a))[0];
  return join(root, newest!, 'bin', name);
}

async function runAs(user: string, argv: readonly string[]): Promise<string> {
  return run('runuser', ['-u', user, '--', ...argv], { cwd: '/' });
}

/** Starts a server on `data`, which is made where it is missing. Everybody above it must let others through. */
export async function postgresql(t: Test, data: string, sockets: string) {
  const [uid, gid] = await idsOf('postgres');
  mkdirSync(sockets, { recursive: true });
  chownSync(sockets, uid!, gid!);
  if (!existsSync(join(data, 'PG_VERSION'))) {
    mkdirSync(data, { recursive: true });
    chownSync(data, uid!, gid!);
    await runAs('postgres', [postgresqlBin('initdb'), '-D', data, '-A', 'trust', '-N', '--no-instructions']);
  }
  chmodSync(data, 0o700);
  const settings = `-c listen_addresses= -c unix_socket_directories=${sockets} -c dynamic_shared_memory_type=mmap`;
  const control = (verb: string, ...more: string[]) =>
    attempt('runuser', ['-u', 'postgres', '--', postgresqlBin('pg_ctl'), verb, '-D', data, '-w', ...more], {
      cwd: '/',
    });
  const stop = async () => {
    if ((await control('status')).code === 0) await control('stop', '-m', 'immediate');
  };
  t.teardown(stop);
  const started = await control('start', '-l', join(sockets, 'log'), '-o', settings);
  if (started.code !== 0) throw new Error(`PostgreSQL does not start: ${started.stdout}${started.stderr}`);
  const psql = (sql: string) =>
    run('psql', ['-X', '-q', '-A', '-t', '-h', sockets, '-U', 'postgres', '-c', sql, 'postgres'], {
      cwd: '/',
    });
  return { sockets, psql, stop };
}

async function idsOf(user: string): Promise<number[]> {
  return [Number(await run('id', ['-u', user])), Number(await run('id', ['-g', user]))];
}

function roomIn(memory: string): boolean {
  if (!existsSync(memory)) return false;
  const { bavail, bsize } = statfsSync(memory);
  return bavail * bsize > 512 * 2 ** 20;
}

/** On `data`, which is made where it is missing; in a folder of its own unless it is named. */
export async function mariadb(t: Test, place?: string) {
  // Making a server syncs a thousand times: in memory that costs nothing.
  const folder = mkdtempSync(join(roomIn('/dev/shm') ? '/dev/shm' : tmpdir(), 'asof-cow-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const data = place ?? join(folder, 'data');
  const socket = join(folder, 'socket');
  const log = join(folder, 'log.err');
  const settings = ['--no-defaults', '--user=root', `--datadir=${data}`, '--innodb-log-file-size=4M'];
  if (!existsSync(join(data, 'ibdata1'))) {
    await run('mariadb-install-db', [
      ...settings,
      '--auth-root-authentication-method=normal',
      '--skip-test-db',
    ]);
  }
  const server = spawn(
    'mariadbd',
    [
      ...settings,
      `--socket=${socket}`,
      `--log-error=${log}`,
      '--skip-networking',
      '--innodb-buffer-pool-size=16M',
    ],
    { stdio: 'ignore' },
  );
  const stop = async () => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const ended = new Promise(done => server.on('exit', done));
    server.kill('SIGKILL');
    await ended;
  };
  t.teardown(stop);
  const client = ['--no-defaults', `--socket=${socket}`, '--user=root', '-N', '-B'];
  const sql = (text: string) => run('mariadb', [...client, '-e', text]);
  await eventually(
    async () =>
      server.exitCode !== null || (await attempt('mariadb', [...client, '-e', 'SELECT 1'])).code === 0,
    'MariaDB answers',
  );
  return { socket, sql, client, stop, log: () => readFileSync(log, 'utf8') };
}
