/**
 * File systems as holders: flushed and frozen before the moment, thawed after it, by a process of its own
 * (native/freezer/main.cc), which thaws them as well when this one dies or the deadline comes.
 *
 * A path may lead to another file system than it did when it was found, one that was mounted over it: what is opened is
 * compared with the mount that was meant, so that never another one is frozen. One that somebody else has frozen answers
 * EBUSY: it is not ours, and nobody here thaws it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants, type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { AsofError, errnoOf } from '../errors.js';
import { type FileSystem, fileSystemOf, fileSystemsOn, mountIdOf, ownWritable } from './file-systems.js';
import type { Holder } from './sequence.js';
import { messageOf } from './timeline.js';

/** Milliseconds beyond the deadline of the hold at which the process thaws by itself. */
const GRACE_MS = 1000;

/** Milliseconds in which a started process must have said that it is ready. */
const START_MS = 10_000;

/** Milliseconds that its end is waited for. */
const END_MS = 5000;

const PROGRAM = new URL('../../../build/Release/asof-freezer', import.meta.url).pathname;

/** On any of the live files `paths`, the deepest first; each once. */
export function fileSystemsOfAll(paths: readonly string[]): FileSystem[] {
  const all = new Map<string, FileSystem>();
  for (const one of paths.flatMap(fileSystemsOn)) {
    const known = all.get(one.device);
    if (!known || known.level < one.level) all.set(one.device, one);
  }
  return [...all.values()].sort((a, b) => b.level - a.level);
}

/**
 * Whoever waits for a frozen file system waits for its thaw; that must not be the one who thaws, nor who serves the disk
 * below it. Throws HOLD_REFUSED where the daemon has anything to write on one of them.
 */
export async function refuseOwn(
  fileSystems: readonly FileSystem[],
  folders: readonly string[],
): Promise<void> {
  if (fileSystems.length === 0) return;
  const refuse = (what: string, device: string) => {
    const found = fileSystems.find(one => one.device === device);
    if (!found) return;
    throw new AsofError(
      'HOLD_REFUSED',
      `${what} lies on the file system on ${found.mountPoint}, which would have to be frozen: the daemon would wait for itself`,
      'move it elsewhere, or --no-freeze',
    );
  };
  for (const { path, device, block } of ownWritable()) {
    refuse(path, device);
    const found = fileSystems.find(one => one.inside.some(name => name === block));
    if (block !== '' && found) refuse(path, found.device);
  }
  for (const folder of folders) {
    let handle: FileHandle | undefined;
    try {
      handle = await open(folder, constants.O_RDONLY);
      refuse(folder, fileSystemOf(handle.fd));
    } catch (error) {
      if (error instanceof AsofError) throw error;
    } finally {
      await handle?.close();
    }
  }
}

/** A set of file systems that are held together; `close` in the end, whatever happened. */
export class Freezer {
  readonly holders: readonly FileSystemHolder[];
  readonly #handles: readonly (FileHandle | undefined)[];
  readonly #child: FreezerProcess | undefined;

  private constructor(
    holders: readonly FileSystemHolder[],
    handles: readonly (FileHandle | undefined)[],
    child?: FreezerProcess,
  ) {
    this.holders = holders;
    this.#handles = handles;
    this.#child = child;
  }

  /** Never rejects: what cannot be held says why when it is asked. */
  static async start(
    fileSystems: readonly FileSystem[],
    holdMs: number,
    program = PROGRAM,
  ): Promise<Freezer> {
    if (fileSystems.length === 0) return new Freezer([], []);
    const reached = await Promise.all(fileSystems.map(reach));
    const handles = reached.map(one => ('handle' in one ? one.handle : undefined));
    const open = handles.filter(handle => handle !== undefined);
    let child: FreezerProcess | undefined;
    let why = '';
    try {
      if (open.length > 0) {
        child = await FreezerProcess.start(
          program,
          holdMs + GRACE_MS,
          open.map(handle => handle.fd),
        );
      }
    } catch (error) {
      why = `${program} does not start: ${messageOf(error)}`;
    }
    const holders = fileSystems.map((fileSystem, i) => {
      const one = reached[i]!;
      const trouble = 'why' in one ? one.why : why;
      const index = 'handle' in one ? open.indexOf(one.handle) : -1;
      return new FileSystemHolder(fileSystem, child, index, trouble);
    });
    return new Freezer(holders, handles, child);
  }

  /** The process of its own, for tests; undefined where there is nothing to hold. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Thaws what is still frozen, and ends. */
  async close(): Promise<void> {
    await this.#child?.end();
    await Promise.all(this.#handles.map(handle => handle?.close()));
  }
}

export class FileSystemHolder implements Holder {
  readonly name: string;
  readonly fileSystem: FileSystem;
  readonly #child: FreezerProcess | undefined;
  readonly #index: number;
  readonly #trouble: string;
  #frozen = false;
  #asked = false;

  constructor(fileSystem: FileSystem, child: FreezerProcess | undefined, index: number, trouble: string) {
    this.fileSystem = fileSystem;
    this.name = fileSystem.mountPoint;
    this.#child = child;
    this.#index = index;
    this.#trouble = trouble;
  }

  /** Flushed first, and while it may still be written: the freeze then has little left to write. */
  async hold(signal: AbortSignal): Promise<void> {
    if (!this.#child || this.#trouble) throw new Error(this.#trouble || 'it cannot be reached');
    await this.#child.ask('sync', this.#index, signal);
    this.#asked = true;
    await this.#child.ask('freeze', this.#index, signal);
    this.#frozen = true;
  }

  /** Rejects where it was not frozen from its hold until now. */
  async release(signal: AbortSignal): Promise<void> {
    if (!this.#child || !this.#asked) return;
    // One whose freeze has failed is not ours; one whose freeze was answered late, or not yet, is.
    if (!this.#frozen && !this.#child.holds(this.#index)) return;
    await this.#child.ask('thaw', this.#index, signal);
  }
}

type Verb = 'sync' | 'freeze' | 'thaw';

interface Waiting {
  readonly done: () => void;
  readonly failed: (error: Error) => void;
}

/** The process and what it was asked. */
class FreezerProcess {
  readonly #child: ChildProcess;
  readonly #fds: readonly number[];
  readonly #program: string;
  readonly #waiting = new Map<string, Waiting>();
  /** Frozen, or about to be, as far as it has told. */
  readonly #held = new Set<number>();
  #ready: Waiting | undefined;
  #ended = '';

  private constructor(program: string, fds: readonly number[], child: ChildProcess) {
    this.#program = program;
    this.#fds = fds;
    this.#child = child;
    child.stdin!.on('error', () => {});
    createInterface({ input: child.stdout! }).on('line', line => this.#told(line));
    child.on('error', error => this.#end(messageOf(error)));
    child.on('exit', (code, signal) => this.#end(`the process that freezes ended by ${signal ?? code}`));
  }

  static async start(program: string, deadlineMs: number, fds: readonly number[]): Promise<FreezerProcess> {
    if (!existsSync(program)) throw new Error('it is not built; npm run build:native');
    const args = [String(Math.ceil(deadlineMs)), String(fds.length)];
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore', ...fds], cwd: '/', env: {} });
    const started = new FreezerProcess(program, fds, child);
    await new Promise<void>((done, failed) => {
      const timer = setTimeout(() => {
        child.kill('SIGKILL');
        failed(new Error('it does not answer'));
      }, START_MS);
      started.#ready = {
        done() {
          clearTimeout(timer);
          done();
        },
        failed(error) {
          clearTimeout(timer);
          failed(error);
        },
      };
    });
    return started;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Frozen, or a freeze is under way. */
  holds(index: number): boolean {
    return this.#held.has(index);
  }

  ask(verb: Verb, index: number, signal: AbortSignal): Promise<void> {
    if (this.#ended) return Promise.reject(new Error(this.#ended));
    const what = `${verb} ${index}`;
    return new Promise<void>((done, failed) => {
      const abort = () => failed(signal.reason);
      const settled = (settle: () => void) => () => {
        signal.removeEventListener('abort', abort);
        settle();
      };
      this.#waiting.set(what, {
        done: settled(done),
        failed: error => settled(() => failed(error))(),
      });
      signal.addEventListener('abort', abort);
      if (verb === 'freeze') this.#held.add(index);
      this.#child.stdin!.write(`${what}\n`);
    });
  }

  /**
   * Its input ends: it thaws what is left, and goes. It is waited for, because it keeps the file systems busy: whoever wants
   * to unmount one next shall be able to. Not for ever: it may have to wait for a disk.
   */
  async end(): Promise<void> {
    this.#child.stdin!.end();
    this.#child.unref();
    if (this.#ended) return;
    await new Promise<void>(done => {
      const timer = setTimeout(done, END_MS);
      this.#child.once('exit', () => {
        clearTimeout(timer);
        done();
      });
    });
  }

  #told(line: string): void {
    const [word = '', number, errno = ''] = line.split(' ');
    if (word === 'ready') {
      this.#ready?.done();
      return;
    }
    const index = Number(number);
    if (word === 'thawed' || word === 'lost') this.#held.delete(index);
    const answers: Record<string, readonly Verb[]> = {
      synced: ['sync'],
      frozen: ['freeze'],
      thawed: ['thaw'],
      failed: ['sync', 'freeze'],
      lost: ['thaw'],
    };
    for (const verb of answers[word] ?? []) {
      const waiting = this.#waiting.get(`${verb} ${index}`);
      if (!waiting) continue;
      this.#waiting.delete(`${verb} ${index}`);
      if (word === 'failed' || word === 'lost') {
        // One that comes too late is thawed at once, and says so then.
        if (verb === 'freeze' && errno !== 'ECANCELED') this.#held.delete(index);
        waiting.failed(new Error(REASONS[`${word} ${errno}`] ?? `${word} ${errno}`));
      } else waiting.done();
      break;
    }
  }

  #end(why: string): void {
    if (this.#ended) return;
    this.#ended = why;
    this.#ready?.failed(new Error(why));
    for (const { failed } of this.#waiting.values()) failed(new Error(why));
    this.#waiting.clear();
    if (this.#held.size === 0) return;
    // It was killed, and what it froze would stay so.
    const fds = [...this.#held].map(index => this.#fds[index]!);
    this.#held.clear();
    spawn(this.#program, ['thaw', String(fds.length)], {
      stdio: ['ignore', 'ignore', 'ignore', ...fds],
      cwd: '/',
      env: {},
    }).on('error', () => {});
  }
}

const REASONS: Readonly<Record<string, string>> = {
  'failed EBUSY': 'somebody else has frozen it',
  'failed EOPNOTSUPP': 'it cannot be frozen',
  'failed EPERM': 'only root may freeze it',
  'failed ECANCELED': 'its freeze came too late',
  'failed ETIME': 'its freeze came too late',
  'failed EROFS': 'it is mounted read-only',
  'lost EINVAL': 'somebody else thawed it before the moment was over',
  'lost ETIME': 'it was thawed at the deadline',
  'lost ECANCELED': 'its freeze came too late',
};

type Reached = { readonly handle: FileHandle } | { readonly why: string };

/** A directory on it, through one of its mounts. Opening a mounted root needs nothing of its disk. */
async function reach({ mounts }: FileSystem): Promise<Reached> {
  let why = 'none of its mounts can be reached';
  for (const { root, mountPoint, id } of mounts) {
    let handle: FileHandle | undefined;
    try {
      handle = await open(join(root, mountPoint) || '/', constants.O_RDONLY | constants.O_NONBLOCK);
      if (mountIdOf(handle.fd) === id) return { handle };
      why = `another file system is mounted over ${mountPoint}`;
      await handle.close();
    } catch (error) {
      why = `${mountPoint} cannot be opened: ${errnoOf(error)}`;
    }
  }
  return { why };
}
