/**
 * End-to-end tests see asof as a user does: through bin/asof and the file system. The server is a process of its own,
 * so that reading a mount here cannot wait for this process.
 */
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { attempt, type Ran, run } from '../peers.js';

const BIN = fileURLToPath(new URL('../../../bin/asof', import.meta.url));

/** One point as `asof points --json` tells it. */
export interface ListedPoint {
  readonly id: string;
  readonly name: string;
  readonly time: string;
  readonly kind: string;
  readonly size: number;
  readonly moment: string;
}

/** Runs the command line to its end. */
export function asof(...args: string[]): Promise<Ran> {
  return attempt(process.execPath, [BIN, ...args]);
}

/** Runs a command that must end with 0; its parsed `--json` answer. */
export async function asofJson<T>(...args: string[]): Promise<T> {
  return JSON.parse(await run(process.execPath, [BIN, ...args, '--json'])) as T;
}

/** The points of `file`, newest first. */
export async function points(file: string, ...options: string[]): Promise<ListedPoint[]> {
  const answer = await asofJson<ListedPoint[] | { points: ListedPoint[] }>('points', file, ...options);
  return 'points' in answer ? answer.points : answer;
}

/** A folder that is gone when `t` is over. */
export async function scratch(t: Test): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'asof-e2e-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Mounts `file` on a new folder until `t` is over; the folder. */
export async function mount(t: Test, file: string, ...options: string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'asof-mnt-'));
  t.teardown(async () => {
    await unmount(folder);
    await rm(folder, { recursive: true, force: true });
  });
  await mkdir(folder, { recursive: true });
  await run(process.execPath, [BIN, 'mount', file, folder, ...options]);
  return folder;
}

/** Unmounts as a user does; by force where that does not do, so that a failed test leaves nothing behind. */
export async function unmount(folder: string): Promise<void> {
  if (!isMounted(folder)) return;
  const { code, stderr } = await asof('umount', folder);
  if (code === 0 && !isMounted(folder)) return;
  await attempt('umount', ['-l', folder]);
  throw new Error(`asof umount ${folder} ended with ${code}: ${stderr}`);
}

export function isMounted(folder: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some(line => line.split(' ')[4] === folder);
}

/** The process that serves the mount: it has the folder in its command line. */
export async function serverOf(folder: string): Promise<number> {
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const words = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    if (words.split('\0').includes(folder)) return Number(name);
  }
  throw new Error(`no process serves ${folder}`);
}

/** The SHA-256 of all bytes of a file, read with buffered reads of 1 MiB. */
export async function digest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
