/**
 * Who keeps a mount busy: processes with an open file, a working directory, a root, a program or a mapping in it, loop
 * devices on a file in it, and mounts below it. All of it is read from /proc and /sys, which name paths without touching
 * the mount. Without root, other users' processes stay unseen.
 */
import { readFileSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { listMounts, type MountEntry } from './mounts.js';

export interface Holder {
  /** "bash (pid 4711)", "/dev/loop3", "the mount on /mnt/point/p1". */
  readonly who: string;
  /** The command that ends it; '' where there is none to suggest. */
  readonly release: string;
}

export async function holdersOf(mount: MountEntry): Promise<Holder[]> {
  const inside = (path: string) => {
    const name = path.replace(/ \(deleted\)$/, '');
    return name === mount.mountPoint || name.startsWith(`${mount.mountPoint}/`);
  };
  const [loops, processes] = await Promise.all([loopHolders(inside), processHolders(inside)]);
  return [...mountHolders(mount), ...loops, ...processes];
}

function mountHolders(mount: MountEntry): Holder[] {
  return listMounts()
    .filter(other => other.parent === mount.id)
    .map(other => ({ who: `the mount on ${other.mountPoint}`, release: `umount ${other.mountPoint}` }));
}

async function loopHolders(inside: (path: string) => boolean): Promise<Holder[]> {
  const holders: Holder[] = [];
  for (const name of await list('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const file = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => '');
    if (inside(file.trimEnd())) holders.push({ who: `/dev/${name}`, release: `losetup -d /dev/${name}` });
  }
  return holders;
}

async function processHolders(inside: (path: string) => boolean): Promise<Holder[]> {
  const pids = (await list('/proc')).filter(name => /^\d+$/.test(name));
  const holders: Holder[] = [];
  for (const pid of pids) {
    if (!(await holds(`/proc/${pid}`, inside))) continue;
    holders.push({ who: `${commandOf(pid)} (pid ${pid})`, release: '' });
  }
  return holders;
}

async function holds(process: string, inside: (path: string) => boolean): Promise<boolean> {
  const links = ['cwd', 'root', 'exe', ...(await list(`${process}/fd`)).map(fd => `fd/${fd}`)];
  for (const link of links) {
    const target = await readlink(`${process}/${link}`).catch(() => '');
    if (inside(target)) return true;
  }
  // Asynchronously, for it waits for the process's own page faults, which may wait for the mount that we serve.
  const maps = await readFile(`${process}/maps`, 'utf8').catch(() => '');
  return maps.split('\n').some(line => inside(line.slice(line.indexOf('/'))));
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd();
  } catch {
    return 'a process';
  }
}

async function list(path: string): Promise<string[]> {
  return readdir(path).catch(() => []);
}
