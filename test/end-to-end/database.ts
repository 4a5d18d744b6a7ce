/**
 * A PostgreSQL server over a data directory, which may be one that another server has left behind at any moment. It refuses
 * to be root, so that its programs run as `nobody`; it is asked over a socket file in a folder of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { attempt, type Ran, run } from '../peers.js';
import { end } from './protected.js';

const NOBODY = 65534;
const AS_NOBODY = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];

/** Debian's programs of that name on the PATH choose among clusters of the system; those that are meant lie elsewhere. */
const packages = (await import(new URL('../../../scripts/packages.js', import.meta.url).href)) as {
  findProgram(name: string): string | undefined;
};
const beside = (name: string) => join(dirname(realpathSync(packages.findProgram('postgres')!)), name);

export const PROGRAMS = ['postgres', 'initdb', 'psql', 'pgbench', 'pg_amcheck', 'setpriv'];

export class Database {
  readonly #sockets = mkdtempSync(join(tmpdir(), 'asof-pg-'));
  #server: ChildProcess | undefined;
  #said = '';

  constructor(readonly data: string) {
    chownSync(this.#sockets, NOBODY, NOBODY);
  }

  static async init(data: string): Promise<void> {
    chownSync(data, NOBODY, NOBODY);
    await as('initdb', [
      '-D',
      data,
      '-U',
      'postgres',
      '--auth=trust',
      '--no-locale',
      '-E',
      'UTF8',
      '--no-instructions',
    ]);
  }

  /**
   * Starts the server, which recovers; waits until it answers. Throws what it says where it ends instead. `lasting`: what
   * it writes is to outlive the machine, which nobody wants of a copy to look into.
   */
  async start({ lasting }: { readonly lasting: boolean }): Promise<void> {
    // The server of the snapshot's moment may be running still, elsewhere; on another machine nobody would ask for it.
    rmSync(join(this.data, 'postmaster.pid'), { force: true });
    const settings = [
      'listen_addresses=',
      'shared_buffers=16MB',
      'max_wal_size=64MB',
      'checkpoint_timeout=30s',
      `fsync=${lasting ? 'on' : 'off'}`,
    ];
    const server = spawn(
      'setpriv',
      [
        ...[...AS_NOBODY, beside('postgres'), '-D', this.data, '-k', this.#sockets],
        ...settings.flatMap(one => ['-c', one]),
      ],
      { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' },
    );
    this.#server = server;
    server.stderr.setEncoding('utf8').on('data', piece => {
      this.#said = (this.#said + piece).slice(0, 100_000);
    });
    const until = Date.now() + 120_000;
    while (!this.#said.includes('ready to accept connections')) {
      if (server.exitCode !== null || Date.now() > until) throw new Error(`no server: ${this.#said}`);
      await new Promise(done => setTimeout(done, 20));
    }
  }

  /** What it has logged since its start. */
  get log(): string {
    return this.#said;
  }

  async attempt(program: string, ...args: string[]): Promise<Ran> {
    const options = ['-h', this.#sockets, '-U', 'postgres'];
    return attempt('setpriv', [...AS_NOBODY, beside(program), ...options, ...args], { cwd: '/' });
  }

  async run(program: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.attempt(program, ...args);
    if (code !== 0) throw new Error(`${program} ${args.join(' ')}: ${code}: ${stderr}${stdout}${this.#said}`);
    return stdout.toString().trim();
  }

  /** Starts a program that goes on. */
  spawn(program: string, ...args: string[]): ChildProcess {
    const command = [...AS_NOBODY, beside(program), '-h', this.#sockets, '-U', 'postgres', ...args];
    return spawn('setpriv', command, { stdio: ['pipe', 'pipe', 'pipe'], cwd: '/' });
  }

  /** Ends it without a checkpoint; its folder of sockets goes. */
  async kill(): Promise<void> {
    if (this.#server) await end(this.#server, 'SIGQUIT');
    rmSync(this.#sockets, { recursive: true, force: true });
  }
}

async function as(program: string, args: readonly string[]): Promise<string> {
  return run('setpriv', [...AS_NOBODY, beside(program), ...args], { cwd: '/' });
}

/** A client that inserts 1, 2, 3 … into the table `ledger`, a transaction each, and knows what was acknowledged. */
export class Ledger {
  /** The last number that was sent, and the last that was acknowledged. */
  sent = 0;
  acknowledged = 0;
  readonly #client: ChildProcess;
  #ending = false;

  constructor(t: Test, database: Database) {
    this.#client = database.spawn('psql', '-X', '-q', '-At', 'bench');
    t.teardown(() => end(this.#client, 'SIGKILL'));
    createInterface({ input: this.#client.stdout! }).on('line', line => {
      this.acknowledged = Number(line);
      if (!this.#ending) this.#send();
    });
    this.#send();
  }

  #send(): void {
    this.#client.stdin!.write(`insert into ledger values (${++this.sent}) returning n;\n`);
  }

  /** Waits until `more` have been acknowledged. */
  async progress(more: number): Promise<void> {
    const target = this.acknowledged + more;
    for (const until = Date.now() + 120_000; this.acknowledged < target; ) {
      if (Date.now() > until || this.#client.exitCode !== null) throw new Error('the database stands still');
      await new Promise(done => setTimeout(done, 20));
    }
  }

  async stop(): Promise<void> {
    this.#ending = true;
    const ended = new Promise(done => this.#client.once('exit', done));
    this.#client.stdin!.end();
    await ended;
  }
}
