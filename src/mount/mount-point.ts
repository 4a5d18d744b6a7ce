/**
 * Is this directory fit to be mounted on? A mount of ours whose server was killed is cleared away first; whatever else
 * stands there is left alone.
 *
 * A dead mount answers ENOTCONN, or still answers from the kernel's caches, and one whose server hangs does not answer
 * at all: it is judged by mountinfo and the registry, and asked, in a process of its own, only where they do not know.
 */
import { spawn } from 'node:child_process';
import { readdir, stat } from 'node:fs/promises';
import { AsofError, errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import { command } from '../shell.js';
import { findFusermount, fusermountUnmount } from './fusermount.js';
import { canonical, FS_TYPE, isMounted, type MountEntry, mountAt } from './mounts.js';
import { serverOf } from './registry.js';

/** Milliseconds for a mount to answer; a busy machine is not a dead server. */
const ANSWER = 5000;

/**
 * The canonical path of the directory `path`, on which nothing is mounted and in which nothing lies.
 * Throws MOUNT_POINT.
 */
export async function freeMountPoint(path: string): Promise<string> {
  const point = await canonical(path);
  // One that died may lie on another that died.
  for (let mount = mountAt(point); mount; mount = mountAt(point)) {
    if (mount.type !== FS_TYPE) {
      throw new AsofError(
        'MOUNT_POINT',
        `${mount.source} (${mount.type}) is mounted on ${point}`,
        'choose an empty directory',
      );
    }
    if (!(await isDead(mount))) {
      const server = serverOf(mount);
      throw new AsofError(
        'MOUNT_POINT',
        `${mount.source} is mounted on ${point}${server ? ` by process ${server.pid}` : ''}`,
        command`asof umount ${point}`,
      );
    }
    await clear(mount);
  }
  let names: string[];
  try {
    const found = await stat(point);
    if (!found.isDirectory()) throw new AsofError('MOUNT_POINT', `${point} is not a directory`);
    names = await readdir(point);
  } catch (error) {
    if (error instanceof AsofError) throw error;
    const errno = errnoOf(error);
    if (errno === 'ENOENT') {
      throw new AsofError('MOUNT_POINT', `${point} does not exist`, command`mkdir -p ${point}`, {
        cause: error,
      });
    }
    throw new AsofError('MOUNT_POINT', `cannot use ${point}: ${errno || String(error)}`, '', {
      cause: error,
    });
  }
  if (names.length > 0) {
    throw new AsofError(
      'MOUNT_POINT',
      `${point} is not empty: it holds ${names[0]}, which the mount would hide`,
      'choose an empty directory',
    );
  }
  return point;
}

/** Whether nobody serves `mount`, which is one of ours. */
export async function isDead(mount: MountEntry): Promise<boolean> {
  if (serverOf(mount)) return false;
  // Nobody said that he serves it: the server was killed, or had no folder for its entry.
  return (await statfsAnswer(mount.mountPoint)) === 'dead';
}

/** statfs(2) is never answered from a cache. A server that is stopped or busy gives no answer; it is not dead. */
function statfsAnswer(path: string): Promise<'alive' | 'dead' | 'silent'> {
  return new Promise(resolve => {
    const child = spawn('stat', ['-f', '--', path], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
    });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    // It may not even be possible to kill it.
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      child.unref();
      child.stderr.destroy();
      resolve('silent');
    }, ANSWER);
    child.on('error', () => {
      clearTimeout(timer);
      resolve('silent');
    });
    child.on('close', code => {
      clearTimeout(timer);
      const dead = /not connected|connection abort|No such device/i.test(stderr);
      resolve(code === 0 ? 'alive' : dead ? 'dead' : 'silent');
    });
  });
}

/** Takes a mount that nobody serves out of the tree. Throws MOUNT_POINT. */
export async function clear(mount: MountEntry): Promise<void> {
  try {
    await detach(mount.mountPoint, true);
  } catch (error) {
    if (!isMounted(mount)) return;
    throw new AsofError(
      'MOUNT_POINT',
      `a mount whose server is gone stands on ${mount.mountPoint} and cannot be removed: ${errnoOf(error)}`,
      command`umount -l ${mount.mountPoint}, as the user who mounted it or as root`,
      { cause: error },
    );
  }
}

/** Unmounts what is on `mountPoint`, as root by umount2(2), else by fusermount3. Throws an error with an errno's name. */
export async function detach(mountPoint: string, lazy: boolean): Promise<void> {
  try {
    loadAddon().unmount(mountPoint, lazy);
  } catch (error) {
    if (errnoOf(error) !== 'EPERM' || !findFusermount()) throw error;
    await fusermountUnmount(mountPoint, lazy);
  }
}
