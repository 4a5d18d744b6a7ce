/**
 * File systems of a test's own that may be frozen: whatever happens, they are thawed, unmounted and detached when it is over.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { attempt, detachLoops, run } from '../peers.js';
import { emptyFile, loop, MiB } from './lab.js';

/** What is needed of the host. */
export const NEEDED = ['mke2fs', 'losetup', 'mount', 'umount', 'fsfreeze', 'sfdisk', 'partx'] as const;

/** Mounts `device` on a new folder. */
export async function mountOn(t: Test, device: string, there: string): Promise<string> {
  mkdirSync(there, { recursive: true });
  await run('mount', [device, there]);
  t.teardown(async () => {
    await attempt('fsfreeze', ['-u', there]);
    if ((await attempt('umount', [there])).code !== 0) await attempt('umount', ['-l', there]);
  });
  return there;
}

/** An ext4 on a loop device over a new file `name`. */
export async function ext4On(t: Test, folder: string, name: string, size = 16 * MiB) {
  const file = emptyFile(join(folder, name), size);
  t.teardown(() => detachLoops(file));
  const device = await loop(t, file);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  return { file, device, there: await mountOn(t, device, join(folder, `${name}-mounted`)) };
}

/** Somebody who writes to it once: `ended` tells whether that has come about. */
export function writeTo(
  t: Test,
  there: string,
): { readonly child: ChildProcess; readonly ended: () => boolean } {
  const child = spawn('/bin/sh', ['-c', `echo written > ${there}/written-$$`], { stdio: 'ignore' });
  t.teardown(() => child.kill('SIGKILL'));
  return { child, ended: () => child.exitCode !== null || child.signalCode !== null };
}

/** Whether the process sleeps where no signal reaches it. */
export function stuck({ pid }: ChildProcess): boolean {
  try {
    return /\) D /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}
