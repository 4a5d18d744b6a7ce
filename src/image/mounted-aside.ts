/**
 * A file system that is looked into for a moment: mounted read-only, without replaying a journal, in a mount namespace of a child
 * process (unshare(1)), where nobody else sees it. It goes with the child, and the child goes when its standard input ends: also
 * when we are killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { options } from './used-space.js';

/** Milliseconds to mount. */
const LONGEST = 60_000;

const SCRIPT = 'mount -n -t "$1" -o "$2" -- "$3" "$4" && echo mounted && read -r _';

export interface MountedAside {
  /** Its root, as this process can reach it. */
  readonly path: string;
  close(): Promise<void>;
}

/** Throws an Error that says why it cannot be mounted. */
export async function mountAside(device: string, type: string, how: string): Promise<MountedAside> {
  const at = tmpdir();
  const flags = ['ro', 'nodev', 'nosuid', 'noexec', ...(how === '' ? [] : [how])].join(',');
  const { env } = options();
  const child = spawn(
    'unshare',
    ['--mount', '--propagation', 'private', '--', 'sh', '-c', SCRIPT, 'sh', type, flags, device, at],
    { stdio: ['pipe', 'pipe', 'pipe'], cwd: '/', env },
  );
  const ended = new Promise<void>(done => {
    child.on('close', () => done());
    child.on('error', () => done());
  });
  const close = async () => {
    child.stdin.end();
    await ended;
  };
  try {
    await mounted(child);
  } catch (error) {
    child.kill('SIGKILL');
    await ended;
    throw error;
  }
  return { path: join('/proc', String(child.pid), 'root', at), close };
}

function mounted(child: ChildProcess): Promise<void> {
  return new Promise((done, failed) => {
    let said = '';
    const timer = setTimeout(() => failed(new Error('mounting it takes too long')), LONGEST);
    const end = (why?: string) => {
      clearTimeout(timer);
      if (why === undefined) done();
      else failed(new Error(why));
    };
    child.stdin!.on('error', () => {});
    child.stderr!.on('data', (piece: Buffer) => {
      if (said.length < 4096) said += piece;
    });
    child.stdout!.on('data', () => end());
    child.on('error', error => end(error.message));
    child.on('close', () => end(`it cannot be mounted: ${said.trim().split('\n')[0]}`));
  });
}
