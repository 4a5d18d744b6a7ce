/**
 * What a command costs: seconds, seconds of processors, peak memory; by GNU time, since Node does not tell it of a child. Of a
 * pipeline the memory is that of the largest process.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, lstatSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Cost {
  readonly seconds: number;
  readonly cpu: number;
  /** MiB. */
  readonly memory: number;
}

export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Talks to it while it runs; then standard output is a pipe. */
  readonly talk?: (child: ChildProcess) => Promise<void>;
}

let count = 0;

/** Runs a program that must succeed. Rejects with what it said. */
export async function timed(argv: readonly string[], { env, talk }: CommandOptions = {}): Promise<Cost> {
  const base = join(tmpdir(), `asof-bench-${process.pid}-${count++}`);
  const [figures, said] = [`${base}.time`, `${base}.said`];
  const output = openSync(said, 'w+');
  try {
    const child = spawn('time', ['-q', '-o', figures, '-f', '%e %U %S %M', ...argv], {
      stdio: [talk ? 'pipe' : 'ignore', talk ? 'pipe' : output, output],
      env: { ...process.env, LC_ALL: 'C', ...env },
    });
    const began = performance.now();
    const ended = new Promise<number | null>((done, failed) => {
      child.on('error', failed);
      child.on('close', done);
    });
    await talk?.(child);
    const status = await ended;
    const seconds = (performance.now() - began) / 1000;
    if (status !== 0) throw new Error(`${argv.join(' ')}: status ${status}\n${readFileSync(said, 'utf8')}`);
    const [, user, system, memory] = readFileSync(figures, 'utf8').trim().split(' ').map(Number);
    return { seconds, cpu: user! + system!, memory: memory! / 1024 };
  } finally {
    closeSync(output);
    rmSync(said, { force: true });
    rmSync(figures, { force: true });
  }
}

/** Bytes of a file, or of all files in a folder. */
export function bytesIn(path: string): number {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return stat.size;
  return readdirSync(path).reduce((sum, name) => sum + bytesIn(join(path, name)), 0);
}
