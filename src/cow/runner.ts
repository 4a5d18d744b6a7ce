/**
 * Programs that the daemon starts around a moment. Between the two stands a process of its own (native/runner/main.cc), which
 * ends the program, and all of its process group, when the daemon is gone: however that ends, nothing that it has begun goes
 * on without it.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { Duplex, Readable, Writable } from 'node:stream';
import { messageOf } from './timeline.js';

const RUNNER = new URL('../../../build/Release/asof-runner', import.meta.url).pathname;

/** Milliseconds for which output is waited for that a program's left-over children still could write. */
const DRAIN_MS = 500;

/** How a program ended. */
export interface End {
  /** null where a signal ended it, or it never began. */
  readonly code: number | null;
  readonly signal: string | null;
  /** Why it never began, or is not known to have ended; '' where it ran. */
  readonly trouble: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Whether its standard input is ours; else it is empty. */
  readonly stdin: boolean;
}

export interface Running {
  /** Where it was asked for. */
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  readonly ended: Promise<End>;
  /** Asks all of its group to end (SIGTERM); two seconds later they do not have to be asked. */
  readonly end: () => void;
  /** Ends all of its group at once (SIGKILL). */
  readonly kill: () => void;
}

/** Never throws: what cannot be started has ended. */
export function start(argv: readonly string[], { env, stdin }: RunOptions): Running {
  const name = JSON.stringify(argv[0] ?? '');
  const never = (why: string): Running => ({
    stdin: null,
    stdout: null,
    stderr: null,
    ended: Promise.resolve({ code: null, signal: null, trouble: `${name} does not start: ${why}` }),
    end: () => {},
    kill: () => {},
  });
  if (!existsSync(RUNNER)) return never(`${RUNNER} is not built; npm run build:native`);
  try {
    const child = spawn(RUNNER, argv.length === 0 ? [''] : argv, {
      stdio: [stdin ? 'pipe' : 'ignore', 'pipe', 'pipe', 'pipe'],
      detached: true,
      cwd: '/',
      env: { ...process.env, ...env },
    });
    const control = child.stdio[3] as Duplex | undefined;
    let told = '';
    control?.on('error', () => {});
    control?.on('data', piece => {
      told += String(piece);
    });
    child.stdin?.on('error', () => {});
    const ended = new Promise<End>(done => {
      let timer: NodeJS.Timeout | undefined;
      const finish = (end: End) => {
        clearTimeout(timer);
        for (const stream of [child.stdin, child.stdout, child.stderr, control]) stream?.destroy();
        done(end);
      };
      child.on('error', error =>
        finish({ code: null, signal: null, trouble: `${name} does not start: ${error.message}` }),
      );
      child.on('close', () => finish(endOf(told, name)));
      // Whoever it started may have its output open for ever.
      child.on('exit', () => {
        timer = setTimeout(() => finish(endOf(told, name)), DRAIN_MS);
      });
    });
    return {
      stdin: child.stdin,
      stdout: child.stdout,
      stderr: child.stderr,
      ended,
      end: () => void control?.end(),
      kill: () => void control?.end('k'),
    };
  } catch (error) {
    // Words that are too many for the kernel, or that no word can be.
    return never(messageOf(error));
  }
}

function endOf(told: string, name: string): End {
  const [word = '', what = ''] = told.trim().split(' ');
  const none = { code: null, signal: null, trouble: '' };
  if (word === 'ended') return { ...none, code: Number(what) };
  if (word === 'signal') return { ...none, signal: what };
  if (word === 'failed') return { ...none, trouble: `${name} does not start: ${what}` };
  return { ...none, trouble: `${name}: the process that watches it was ended` };
}
