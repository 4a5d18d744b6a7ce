/**
 * A part of a file or device as a device of its own, for programs that know no offsets: a read-only loop device. It is given back
 * by the kernel when its last user has gone, whatever becomes of us.
 */
import { execFile } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { promisify } from 'node:util';
import { options } from './used-space.js';

export interface LoopWindow {
  readonly path: string;
  close(): void;
}

const run = promisify(execFile);

/** Bytes. Throws an Error that says why there is none. */
export async function openWindow(
  path: string,
  start: number,
  size: number,
  sectorSize: number,
): Promise<LoopWindow> {
  if (process.geteuid?.() !== 0) throw new Error('only an administrator may have a loop device for it');
  const sector = sectorSize === 512 ? [] : ['--sector-size', String(sectorSize)];
  const place = ['--offset', String(start), '--sizelimit', String(size)];
  let device: string;
  try {
    const made = await run(
      'losetup',
      ['--read-only', '--find', '--show', ...sector, ...place, path],
      options(),
    );
    device = made.stdout.trim();
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(`no loop device can be had: ${stderr?.trim() || String(error)}`);
  }
  let fd = -1;
  try {
    fd = openSync(device, 'r');
  } finally {
    // In use it stays until its last user has gone.
    await run('losetup', ['--detach', device], options()).catch(() => {});
  }
  return { path: device, close: () => closeSync(fd) };
}
