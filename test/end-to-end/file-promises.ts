/**
 * The load on a file system, and what must therefore be in a snapshot of it. The load writes down outside what it was
 * promised (file-load.ts): what was synced before a snapshot began is in it, byte for byte; what was begun after it was
 * taken is not.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { attempt, run } from '../peers.js';
import { SLOT, SLOTS, slot } from './file-load.js';
import { end } from './protected.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const PROGRAM = fileURLToPath(new URL('file-load.js', import.meta.url));

/** Where the journal stood before a snapshot began, and after it was taken, in lines. */
export interface Span {
  readonly before: number;
  readonly after: number;
}

export class Load {
  readonly #journal: string;
  readonly #wanted: ReadonlyMap<string, string>;
  #child: ChildProcess | undefined;
  #ending = false;
  #fio: Promise<void> = Promise.resolve();
  #failure: unknown;
  #stderr = '';

  private constructor(
    readonly there: string,
    outside: string,
  ) {
    this.#journal = join(outside, 'journal');
    this.#wanted = digests(join(ROOT, 'src'));
  }

  /** Starts both loads on the file system that is mounted on `there`. What must be outside of it goes to `outside`. */
  static async start(t: Test, there: string, outside: string, seed: number): Promise<Load> {
    const load = new Load(there, outside);
    await run('tar', ['-cf', join(outside, 'archive.tar'), '-C', ROOT, 'src']);
    writeFileSync(load.#journal, '');
    mkdirSync(join(there, 'keep'));
    mkdirSync(join(there, 'trees'));
    const slots = Array.from({ length: SLOTS }, (_, i) => slot(i, 0));
    writeFileSync(join(there, 'slots'), Buffer.concat(slots));
    await run('sync', ['-f', there]);

    t.teardown(async () => {
      await attempt('fsfreeze', ['-u', there]); // who waits for a frozen one cannot be killed
      load.#ending = true;
      if (load.#child) await end(load.#child, 'SIGKILL');
      await load.#fio;
    });
    load.#child = spawn(process.execPath, [PROGRAM, there, load.#journal, String(seed)], {
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    load.#child.stderr!.setEncoding('utf8').on('data', piece => {
      load.#stderr += piece;
    });
    load.#fio = load.#runFio(seed);
    return load;
  }

  /** fio, again and again: each run overwrites its file and verifies it. */
  async #runFio(seed: number): Promise<void> {
    for (let round = 0; !this.#ending && !this.#failure; round++) {
      await run('fio', [
        ...['--name=load', `--filename=${join(this.there, 'fio')}`, '--size=6m', '--rw=randwrite'],
        ...['--bsrange=4k-64k', '--direct=1', '--ioengine=libaio', '--iodepth=4', '--rate=24m'],
        ...['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--end_fsync=1'],
        `--randseed=${seed + round}`,
      ]).catch(error => {
        this.#failure = error;
      });
    }
  }

  /** Ends both, each at the end of a step. Throws what went wrong in them. */
  async stop(): Promise<void> {
    this.#ending = true;
    const child = this.#child!;
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise(done => child.once('exit', done));
      child.stdin!.end();
      await ended;
    }
    await this.#fio;
    this.#check();
    if (child.exitCode !== 0) throw new Error(`the load ended with ${child.exitCode}: ${this.#stderr}`);
  }

  #check(): void {
    if (this.#failure) throw this.#failure;
    const code = this.#child!.exitCode;
    if (!this.#ending && code !== null) throw new Error(`the load ended with ${code}: ${this.#stderr}`);
  }

  /** Nothing is trimmed while `work` goes on. */
  async withoutTrims<T>(work: () => Promise<T>): Promise<T> {
    const marker = join(dirname(this.#journal), 'no-trim');
    writeFileSync(marker, '');
    try {
      const trims = () => this.lines().filter(line => line.startsWith('trim'));
      await this.#until(() => trims().at(-1) !== 'trim');
      return await work();
    } finally {
      rmSync(marker);
    }
  }

  /** The lines of the journal that are whole. */
  lines(): string[] {
    return readFileSync(this.#journal, 'utf8').split('\n').slice(0, -1);
  }

  /** Waits until `more` things have happened. */
  async progress(more: number): Promise<void> {
    const from = this.lines().length;
    await this.#until(() => this.lines().length >= from + more);
  }

  async #until(is: () => boolean): Promise<void> {
    for (const until = Date.now() + 120_000; !is(); ) {
      this.#check();
      if (Date.now() > until) throw new Error('the load stands still');
      await new Promise(done => setTimeout(done, 20));
    }
  }

  /** What is wrong with the file system that is mounted on `there`, as of a moment within `span`. */
  broken(there: string, { before, after }: Span): string[] {
    const lines = this.lines();
    const promised = statement(lines.slice(0, before));
    const possible = statement(lines.slice(0, after));
    const known = statement(lines).kept;
    const wrong: string[] = [];

    for (const n of promised.kept.keys()) {
      if (!possible.retired.has(n) && !existsSync(join(there, 'keep', n)))
        wrong.push(`keep/${n} is not there`);
    }
    for (const n of readdirSync(join(there, 'keep')).filter(name => !name.startsWith('.'))) {
      const digest = known.get(n);
      if (!possible.begun.has(n)) wrong.push(`keep/${n} was begun later`);
      else if (digest && digestOf(join(there, 'keep', n)) !== digest) wrong.push(`keep/${n} has other bytes`);
    }

    const slots = readFileSync(join(there, 'slots'));
    for (let i = 0; i < SLOTS; i++) {
      const first = promised.wrote.get(String(i)) ?? 0;
      const last = possible.writing.get(String(i)) ?? 0;
      const is = slots.subarray(i * SLOT, (i + 1) * SLOT);
      let sequence = first;
      while (sequence <= last && !slot(i, sequence).equals(is)) sequence++;
      if (sequence > last) wrong.push(`the slot ${i} has none of its versions ${first} to ${last}`);
    }

    for (const n of promised.trees) {
      if (!possible.dropped.has(n) && !existsSync(join(there, 'trees', n)))
        wrong.push(`trees/${n} is not there`);
    }
    for (const n of readdirSync(join(there, 'trees')).filter(name => !name.startsWith('.'))) {
      const found = digests(join(there, 'trees', n, 'src'));
      for (const [path, digest] of this.#wanted)
        if (found.get(path) !== digest) wrong.push(`trees/${n}/${path} has other bytes`);
      if (found.size !== this.#wanted.size) wrong.push(`trees/${n} has ${found.size} files`);
    }
    return wrong;
  }
}

/** What the lines of a journal say. */
function statement(lines: readonly string[]) {
  const said = {
    begun: new Set<string>(),
    kept: new Map<string, string>(),
    retired: new Set<string>(),
    writing: new Map<string, number>(),
    wrote: new Map<string, number>(),
    trees: new Set<string>(),
    dropped: new Set<string>(),
  };
  for (const line of lines) {
    const [what, n = '', more = ''] = line.split(' ');
    if (what === 'begin') said.begun.add(n);
    if (what === 'kept') said.kept.set(n, more);
    if (what === 'retire') said.retired.add(n);
    if (what === 'write') said.writing.set(n, Number(more));
    if (what === 'wrote') said.wrote.set(n, Number(more));
    if (what === 'tree') said.trees.add(n);
    if (what === 'drop') said.dropped.add(n);
  }
  return said;
}

function digestOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

/** Path → digest of every file below. */
function digests(root: string): Map<string, string> {
  if (!existsSync(root)) return new Map();
  const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile());
  return new Map(
    files.map(({ parentPath, name }) => {
      const path = join(parentPath, name);
      return [relative(root, path), digestOf(path)];
    }),
  );
}
