/**
 * Programs that are run around a moment: in a process group of their own, within a time, with what they print kept as far
 * as it goes. When the time is over all of the group is ended, politely first; so it is when the daemon is gone (runner.ts).
 */
import { AsofError } from '../errors.js';
import type { Clock } from './clock.js';
import { start } from './runner.js';
import { messageOf } from './timeline.js';

/** Bytes of output that are kept: the beginning and the end. */
const KEPT = 16 * 1024;

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
export async function runProgram(argv: readonly string[], options: ProgramOptions): Promise<Ended> {
  const { clock, timeoutMs, signal: ends } = options;
  const began = clock.now();
  const output = new Output();
  const program = start(argv, { env: options.env, stdin: false });
  let ending = '';
  const end = (why: string) => {
    if (ending) return;
    ending = why;
    program.end();
  };
  const cancel = clock.after(timeoutMs, () =>
    end(`it did not end within ${timeoutMs / 1000} s, and was ended`),
  );
  const aborted = () =>
    end(
      ends!.reason instanceof AsofError
        ? `it was ended: ${messageOf(ends!.reason)}`
        : 'it was ended, because the time for all was over',
    );
  if (ends?.aborted) aborted();
  ends?.addEventListener('abort', aborted);
  program.stdout?.on('data', (piece: Buffer) => output.add(piece));
  program.stderr?.on('data', (piece: Buffer) => output.add(piece));
  const { code, signal, trouble } = await program.ended;
  cancel();
  ends?.removeEventListener('abort', aborted);
  const how = signal === null ? `it ended with ${code}` : `${signal} ended it`;
  const why = trouble || ending || (code === 0 ? '' : how);
  return { code, signal, why, output: output.text(), took: clock.now() - began };
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
