/**
 * The command as a user runs it, and the programs that its answers are compared with.
 */
import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';

export const ASOF = new URL('../../../bin/asof', import.meta.url).pathname;

export interface Ended {
  readonly status: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Runs bin/asof to its end. */
export function asof(...argv: readonly string[]): Promise<Ended> {
  return new Promise((done, failed) => {
    const child = spawn(ASOF, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
    const stdout: Buffer[] = [];
    let stderr = '';
    child.stdout.on('data', (piece: Buffer) => stdout.push(piece));
    child.stderr.on('data', (piece: Buffer) => {
      stderr += piece.toString();
    });
    child.on('error', failed);
    // `exit` and not `close`: a server that kept the output open would be seen as a hang by `close`.
    child.on('close', (code, signal) => {
      if (code === null) failed(new Error(`asof ${argv.join(' ')} was killed by ${signal}`));
      else done({ status: code, stdout: Buffer.concat(stdout), stderr });
    });
  });
}

/** The JSON that a command answers, which must succeed. */
export async function asofJson<T>(...argv: readonly string[]): Promise<T> {
  const { status, stdout, stderr } = await asof(...argv, '--json');
  if (status !== 0) throw new Error(`asof ${argv.join(' ')}: status ${status}: ${stderr}`);
  return JSON.parse(stdout.toString()) as T;
}

/** Runs another program; throws unless it succeeds. */
export async function peer(program: string, ...argv: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(program, argv, { maxBuffer: 2 ** 28 });
  return stdout;
}

/** A qcow2 image with a history: see the writes. `b.qcow2` stands on `a.qcow2`, which keeps one snapshot. */
export const SIZE = 8 * 2 ** 20 + 512;

export async function makeChain(folder: string): Promise<{ readonly a: string; readonly b: string }> {
  const a = `${folder}/a.qcow2`;
  const b = `${folder}/b.qcow2`;
  await peer('qemu-img', 'create', '-q', '-f', 'qcow2', a, String(SIZE));
  await peer('qemu-io', '-c', 'write -P 1 64k 192k', '-c', 'write -P 2 1M 64k', a);
  await peer('qemu-img', 'snapshot', '-c', 'before', a);
  await peer(
    'qemu-io',
    '-c',
    'write -P 3 128k 64k',
    '-c',
    'write -z 1M 64k',
    '-c',
    'write -c -P 4 2M 64k',
    a,
  );
  await peer('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', 'a.qcow2', b);
  await peer('qemu-io', '-c', 'write -P 5 3M 64k', '-c', `write -P 6 ${SIZE - 512} 512`, b);
  return { a, b };
}

/** The mount on `path`, as the kernel tells it without touching it. */
export function mounted(path: string): { readonly type: string } | undefined {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const fields = line.split(' ');
    if (fields[4] === path) return { type: fields[fields.indexOf('-') + 1]! };
  }
  return undefined;
}

/** Whether the process is there and no zombie. */
export function running(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

/** Waits until `is` says yes; throws after a time that no sound machine needs. */
export async function eventually(is: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const until = Date.now() + 30_000;
  while (!(await is())) {
    if (Date.now() > until) throw new Error(`not within 30 s: ${what}`);
    await new Promise(done => setTimeout(done, 50));
  }
}
