/**
 * The state directory, and who has it. One daemon at a time: it holds an exclusive lock on `lock`, which the kernel
 * takes back however the daemon ends.
 *
 *   asof.sock              the daemon's socket
 *   lock                   locked by the daemon; its content names the process, for people
 *   alive                  touched while the daemon runs: tells how long it lived after all (identity.ts)
 *   options.json           the user's saved defaults (options.ts)
 *   schedules.json         what schedules did last (scheduler.ts)
 *   jobs/<uuid>.json       jobs under way, and those that failed or were interrupted (jobs.ts)
 *   deletions.json         groups whose deletion has begun (deletions.ts)
 *   volumes/<uuid>/
 *     volume.json          what the volume is; written when it is added
 *     state.json           its snapshots, and at a clean stop the origin's identity
 *     moments/<uuid>.json  how each of its snapshots came about
 *     store, tracker       docs/formats.md
 *     reflink/<uuid>       snapshots of the provider reflink, unless the origin lies on another file system
 */
import {
  chmodSync,
  closeSync,
  constants,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import { command } from '../shell.js';

/** Milliseconds between two signs of life. */
const PULSE_MS = 2000;

export class StateFolder {
  readonly path: string;
  /** When the daemon that ran here last was seen alive; undefined where nothing tells. */
  readonly lastAlive: Date | undefined;
  readonly #lock: number;
  readonly #pulse: NodeJS.Timeout;

  private constructor(path: string, lock: number) {
    this.path = path;
    this.#lock = lock;
    this.lastAlive = modified(join(path, 'alive'));
    this.#touch();
    this.#pulse = setInterval(() => this.#touch(), PULSE_MS);
    this.#pulse.unref();
  }

  /** Makes the directory where it is missing, and locks it. Throws STATE_UNUSABLE or DAEMON_RUNNING. */
  static open(folder: string): StateFolder {
    const path = resolve(folder);
    let fd: number;
    try {
      makeFolder(path);
      makeFolder(join(path, 'volumes'));
      requirePrivate(path);
      const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
      fd = openSync(join(path, 'lock'), flags, 0o600);
    } catch (error) {
      if (error instanceof AsofError) throw error;
      throw new AsofError(
        'STATE_UNUSABLE',
        `cannot use the state directory ${path}: ${whyNot(error)}`,
        '--state or ASOF_STATE names another directory',
        { cause: error },
      );
    }
    try {
      if (!loadAddon().lockWhole(fd)) {
        const who = readFileSync(join(path, 'lock'), 'utf8').trim();
        throw new AsofError(
          'DAEMON_RUNNING',
          `another daemon has the state directory ${path}${who ? `: process ${who}` : ''}`,
          command`asof volume list --state ${path}`,
        );
      }
      ftruncateSync(fd);
      writeSync(fd, `${process.pid}\n`, 0);
      return new StateFolder(path, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  get socket(): string {
    return join(this.path, 'asof.sock');
  }

  /** The UUIDs of the volumes that have a folder. */
  volumes(): string[] {
    return readdirSync(join(this.path, 'volumes')).filter(name =>
      /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(name),
    );
  }

  volume(id: string): string {
    return join(this.path, 'volumes', id);
  }

  /** Gives the lock back. */
  close(): void {
    clearInterval(this.#pulse);
    closeSync(this.#lock);
  }

  #touch(): void {
    const path = join(this.path, 'alive');
    try {
      const now = new Date();
      utimesSync(path, now, now);
    } catch {
      try {
        writeFileSync(path, '', { mode: 0o600 });
      } catch {
        // A full disk: the last sign of life is then older than the truth, which errs to the safe side.
      }
    }
  }
}

function whyNot(error: unknown): string {
  const errno = errnoOf(error);
  switch (errno) {
    case 'EEXIST':
    case 'ENOTDIR':
      return `something on the way is no directory (${errno})`;
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return `this user cannot write there (${errno})`;
    default:
      return errno || String(error);
  }
}

/** Node's own `recursive` never returns where the parent is there and refuses by ENOENT, as /proc does. */
function makeFolder(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

function modified(path: string): Date | undefined {
  try {
    return statSync(path).mtime;
  } catch {
    return undefined;
  }
}

/** Whoever may write here may say what a volume's past is. Throws STATE_UNUSABLE. */
function requirePrivate(path: string): void {
  const stat = lstatSync(path);
  const uid = process.geteuid?.() ?? 0;
  if (!stat.isDirectory())
    throw new AsofError('STATE_UNUSABLE', `the state directory ${path} is no directory`);
  if (stat.uid !== uid) {
    throw new AsofError(
      'STATE_UNUSABLE',
      `the state directory ${path} belongs to user ${stat.uid}, not to ${uid}`,
    );
  }
  if ((stat.mode & 0o077) === 0) return;
  if (readdirSync(path).every(name => name === 'volumes')) chmodSync(path, 0o700);
  else {
    const mode = (stat.mode & 0o777).toString(8);
    throw new AsofError(
      'STATE_UNUSABLE',
      `the state directory ${path} has mode ${mode}; only its owner may enter it`,
      command`chmod 700 ${path}`,
    );
  }
}
