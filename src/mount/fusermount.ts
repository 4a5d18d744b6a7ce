/**
 * Mounting without root: fusermount3, which is setuid root, mounts and sends the descriptor of /dev/fuse over the socket
 * that _FUSE_COMMFD names (fusermount3(1)).
 */
import { spawn } from 'node:child_process';
import { accessSync, closeSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';
import type { MountOptions } from './driver.js';

const INSTALL = 'install it (Debian, Fedora: fuse3), or mount as root';

/** The path of fusermount3; undefined where it is not to be found. */
export function findFusermount(): string | undefined {
  for (const folder of [...(process.env['PATH'] ?? '').split(delimiter), '/usr/bin', '/bin']) {
    if (!folder) continue;
    const path = join(folder, 'fusermount3');
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next one.
    }
  }
  return undefined;
}

/** An open, mounted descriptor of /dev/fuse. Throws DRIVER_UNAVAILABLE or MOUNT_FAILED. */
export async function fusermount({
  mountPoint,
  source,
  allowOther,
  writable,
}: MountOptions): Promise<number> {
  const program = requireFusermount();
  const options = [writable ? 'rw' : 'ro', 'nosuid', 'nodev', 'default_permissions', 'subtype=asof'];
  options.push(`fsname=${source.replace(/[\\,]/g, '\\$&')}`);
  if (allowOther) options.push('allow_other');
  const [ours, theirs] = loadAddon().socketPair();
  try {
    const { status, stderr } = await run(program, ['-o', options.join(','), '--', mountPoint], theirs);
    const fd = status === 0 ? loadAddon().receiveFd(ours) : -1;
    if (fd >= 0) return fd;
    const hint = stderr.includes('user_allow_other')
      ? 'root must write user_allow_other into /etc/fuse.conf'
      : '';
    throw new AsofError(
      'MOUNT_FAILED',
      `cannot mount on ${mountPoint}: ${stderr || `status ${status}`}`,
      hint,
    );
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
}

/** Throws an error whose `code` is EBUSY, or EINVAL where it will not for another reason. */
export async function fusermountUnmount(mountPoint: string, lazy: boolean): Promise<void> {
  const args = ['-u', ...(lazy ? ['-z'] : []), '--', mountPoint];
  const { status, stderr } = await run(requireFusermount(), args);
  if (status === 0) return;
  throw Object.assign(new Error(stderr), { code: /busy/i.test(stderr) ? 'EBUSY' : 'EINVAL' });
}

function requireFusermount(): string {
  const program = findFusermount();
  if (!program) throw new AsofError('DRIVER_UNAVAILABLE', 'mounting without root needs fusermount3', INSTALL);
  return program;
}

function run(program: string, args: string[], socket?: number): Promise<{ status: number; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'ignore', 'pipe', socket ?? 'ignore'],
      env: { ...process.env, LC_ALL: 'C', _FUSE_COMMFD: '3' },
    });
    let stderr = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      const said = stderr.replace(/^\S*fusermount3?: /, '').trim();
      resolve({ status: code ?? 128, stderr: said || (signal ?? '') });
    });
  });
}
