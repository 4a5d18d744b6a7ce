/**
 * Programs that are run around a moment: in a process group of their own, within a time, with what they print kept as far
 * as it goes. When the time is over all of the group is ended, politely first.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { AsofError } from '../errors.js';
import type { Clock } from './clock.js';
import { messageOf } from './timeline.js';

/** Bytes of output that are kept: the beginning and the end. */
const KEPT = 16 * 1024;

/** Milliseconds between the polite end and the other one. */
const POLITE_MS = 2000;

/** Milliseconds for which output is waited for that a program's left-over children still could write. */
const DRAIN_MS = 500;

export interface ProgramOptions {
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Ends it before its time. */
  readonly signal?: AbortSignal | undefined;
}

export interface Ended {
  /** null where a signal ended it, or it never began. */
  readonly code: number | null;
  readonly signal: string | null;
  /** Why it did not succeed, in words; '' where it did. */
  readonly why: string;
  /** What it wrote to standard output and standard error, in the order in which it came. */
  readonly output: string;
  /** Milliseconds. */
  readonly took: number;
}

/** Never rejects. */
export function runProgram(argv: readonly string[], options: ProgramOptions): Promise<Ended> {
  const { clock, timeoutMs } = options;
  const began = clock.now();
  const output = new Output();
  const [program = '', ...args] = argv;
  let child: ChildProcessByStdio<null, Readable, Readable>;
  try {
    child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      cwd: '/',
      env: { ...process.env, ...options.env },
    });
  } catch (error) {
    // Words that are too many for the kernel, or that no word can be.
    const why = `${JSON.stringify(program)} does not start: ${messageOf(error)}`;
    return Promise.resolve({ code: null, signal: null, why, output: '', took: clock.now() - began });
  }
  let ending = '';
  const timers: (() => void)[] = [];
  const kill = (signal: NodeJS.Signals) => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal);
    } catch {
      // They have all gone.
    }
  };
  const end = (why: string) => {
    if (ending) return;
    ending = why;
    kill('SIGTERM');
    timers.push(clock.after(POLITE_MS, () => kill('SIGKILL')));
  };
  timers.push(
    clock.after(timeoutMs, () => end(`it did not end within ${timeoutMs / 1000} s, and was ended`)),
  );
  const aborted = () => end('it was ended, because the time for all was over');
  if (options.signal?.aborted) aborted();
  options.signal?.addEventListener('abort', aborted);
  child.stdout.on('data', (piece: Buffer) => output.add(piece));
  child.stderr.on('data', (piece: Buffer) => output.add(piece));
  return new Promise(done => {
    const finish = (code: number | null, signal: string | null, trouble: string) => {
      for (const cancel of timers) cancel();
      options.signal?.removeEventListener('abort', aborted);
      // What the leader left of its group after its time was over.
      if (ending) kill('SIGKILL');
      child.stdout.destroy();
      child.stderr.destroy();
      const how = signal === null ? `it ended with ${code}` : `${signal} ended it`;
      const why = trouble || ending || (code === 0 ? '' : how);
      done({ code, signal, why, output: output.text(), took: clock.now() - began });
    };
    child.on('error', error => finish(null, null, `${program} does not start: ${error.message}`));
    child.on('close', (code, signal) => finish(code, signal, ''));
    child.on('exit', (code, signal) => {
      // Whoever it started may have its output open for ever.
      const timer = setTimeout(() => finish(code, signal, ''), DRAIN_MS);
      timers.push(() => clearTimeout(timer));
    });
  });
}

class Output {
  #head = Buffer.alloc(0);
  #tail = Buffer.alloc(0);
  #dropped = 0;

  add(piece: Buffer): void {
    const room = KEPT / 2 - this.#head.length;
    if (room > 0) this.#head = Buffer.concat([this.#head, piece.subarray(0, room)]);
    const rest = piece.subarray(Math.max(0, room));
    if (rest.length === 0) return;
    const tail = Buffer.concat([this.#tail, rest]);
    const over = Math.max(0, tail.length - KEPT / 2);
    this.#dropped += over;
    this.#tail = Buffer.from(tail.subarray(over));
  }

  text(): string {
    const gap = this.#dropped > 0 ? `\n… ${this.#dropped} bytes left out …\n` : '';
    return `${this.#head.toString()}${gap}${this.#tail.toString()}`;
  }
}

/**
 * The words of a command line that no shell sees: blanks part them, '…' keeps all, "…" and \ keep what follows.
 * Nothing is replaced. Throws USAGE.
 */
export function wordsOf(line: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote = '';
  for (let at = 0; at < line.length; at++) {
    const char = line[at]!;
    if (quote !== '') {
      if (char === quote) quote = '';
      else if (quote === '"' && char === '\\' && /["\\]/.test(line[at + 1] ?? '')) word += line[++at]!;
      else word += char;
    } else if (char === '"' || char === "'") {
      quote = char;
      word ??= '';
    } else if (char === '\\' && at + 1 < line.length) {
      word = (word ?? '') + line[++at]!;
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? '') + char;
  }
  if (quote !== '') throw new AsofError('USAGE', `${JSON.stringify(line)} has a ${quote} that does not end`);
  if (word !== undefined) words.push(word);
  return words;
}
