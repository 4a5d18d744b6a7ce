/**
 * Processes, mounts and folders of a benchmark, all of which are gone when it ends, on Ctrl-C too.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** What is still to be undone, the newest last. */
const undo = new Set<() => void>();

/** Runs `action` at the end unless the returned function has run it before. */
export function atEnd(action: () => void): () => void {
  const once = () => {
    if (undo.delete(once)) action();
  };
  undo.add(once);
  return once;
}

/** Undoes everything, the newest first; an action that fails is told and does not keep the others. */
export function cleanUp(): void {
  for (const action of [...undo].reverse()) {
    try {
      action();
    } catch (error) {
      process.stderr.write(`clean-up: ${String(error)}\n`);
    }
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    cleanUp();
    process.exit(130);
  });
}

export function temporaryFolder(parent: string, name: string): string {
  const path = mkdtempSync(join(parent, `asof-bench-${name}-`));
  atEnd(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Runs a program that must succeed; its standard output. Rejects with what it said. */
export async function run(program: string, args: readonly string[], cwd?: string): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(program, [...args], {
      cwd,
      maxBuffer: 2 ** 28,
      env: { ...process.env, LC_ALL: 'C' },
    });
    return stdout;
  } catch (error) {
    const { stderr, stdout, message } = error as { stderr?: string; stdout?: string; message: string };
    throw new Error(`${program} ${args.join(' ')}: ${message}\n${stderr ?? ''}${stdout ?? ''}`);
  }
}

/** A program that stays; `stop` sends SIGTERM and waits for its end. `quiet`: what it warns of is known. */
export function serve(
  program: string,
  args: readonly string[],
  quiet = false,
): { stop: () => Promise<void>; pid: number } {
  const stderr = quiet ? 'ignore' : 'inherit';
  const child: ChildProcess = spawn(program, [...args], { stdio: ['ignore', 'ignore', stderr] });
  const ended = new Promise<void>(resolve => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  const end = atEnd(() => child.kill('SIGTERM'));
  const stop = async () => {
    end();
    await ended;
  };
  return { stop, pid: child.pid ?? 0 };
}

/** Whether something is mounted on exactly this path. */
export function isMounted(path: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some(line => line.split(' ')[4] === path);
}

/** Waits until `path` is mounted, or is not; rejects after ten seconds. */
export async function untilMounted(path: string, mounted: boolean): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (isMounted(path) === mounted) return;
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  throw new Error(`${path} is ${mounted ? 'not' : 'still'} mounted after ten seconds`);
}

/** Detaches a mount that the end finds still there. */
export function unmountAtEnd(path: string): () => void {
  return atEnd(() => {
    if (isMounted(path)) execFileSync('umount', ['-l', path]);
  });
}
