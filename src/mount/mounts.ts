/**
 * What is mounted where, from /proc/self/mountinfo (proc(5)): the kernel answers it without touching any file system,
 * so it is safe to ask about a mount that is dead, or that this very process serves.
 */
import { readFileSync } from 'node:fs';
import { readlink, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type MountEntry, parseMountInfo } from '../mountinfo.js';

export type { MountEntry };

/** How our mounts are told from others: the type after "fuse.". */
export const FS_TYPE = 'fuse.asof';

/** The mounts that this process sees, in the order in which they were made. Empty where there is no such file. */
export function listMounts(): MountEntry[] {
  let text: string;
  try {
    text = readFileSync('/proc/self/mountinfo', 'utf8');
  } catch {
    return [];
  }
  return parseMountInfo(text);
}

/** The mount that a look-up of `mountPoint` (canonical) meets: the last one made there. */
export function mountAt(mountPoint: string, mounts = listMounts()): MountEntry | undefined {
  return mounts.findLast(mount => mount.mountPoint === mountPoint);
}

/** Whether this very mount stands still. The kernel gives the id of one that has gone to the next. */
export function isMounted({ id, mountPoint }: MountEntry): boolean {
  return listMounts().some(mount => mount.id === id && mount.mountPoint === mountPoint);
}

/**
 * `path` as mountinfo writes it: absolute, without symbolic links. A mount point itself is never asked, for the answer
 * might not come. Names that do not exist stay as they are.
 */
export async function canonical(path: string): Promise<string> {
  let at = resolve(path);
  // As many links as the kernel follows (path_resolution(7)).
  for (let links = 0; links < 40; links++) {
    if (at === '/' || mountAt(at)) return at;
    let folder = dirname(at);
    try {
      if (!mountAt(folder)) folder = await realpath(folder);
    } catch {
      return at;
    }
    const full = join(folder, basename(at));
    if (mountAt(full)) return full;
    try {
      at = resolve(folder, await readlink(full));
    } catch {
      return full;
    }
  }
  return at;
}
