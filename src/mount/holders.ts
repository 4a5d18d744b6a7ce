/**
 * Who keeps a mount busy: processes with an open file, a working directory, a root, a program or a mapping in it, loop
 * devices on a file in it, and mounts below it. All of it is read from /proc and /sys, which name paths without touching
 * the mount. Without root, other users' processes stay unseen.
 */
import { readFile } from 'node:fs/promises';
import { command } from '../shell.js';
import { list, target, text } from '../sysfs.js';
import { diskFolderOf, listAttachments } from './attachments.js';
import { listMounts, type MountEntry } from './mounts.js';

export interface Holder {
  /** "bash (pid 4711)", "/dev/loop3", "the mount on /mnt/point/p1". */
  readonly who: string;
  /** The command that ends it; '' where there is none to suggest. */
  readonly release: string;
}

export async function holdersOf(mount: MountEntry): Promise<Holder[]> {
  const real = throughAttachments();
  const inside = (shown: string) => {
    const path = real(shown);
    // The kernel marks what is gone; a directory may have a name that looks like the mark.
    const names = [path, path.replace(/ \(deleted\)$/, '')];
    return names.some(name => name === mount.mountPoint || name.startsWith(`${mount.mountPoint}/`));
  };
  return [...mountHolders(mount), ...loopHolders(inside), ...(await processHolders(inside))];
}

/** Turns a path below the second place of a mount, which an attachment has, into that below the mount itself. */
function throughAttachments(): (path: string) => string {
  const places = listAttachments()
    .attachments.filter(({ own }) => !own)
    .map(attachment => ({ from: `${diskFolderOf(attachment)}/`, to: `${attachment.mountPoint}/` }));
  return path => {
    const place = places.find(({ from }) => path.startsWith(from));
    return place ? place.to + path.slice(place.from.length) : path;
  };
}

/** Loop devices on files that `held` accepts by their path, and other processes that have one open or mapped. */
export async function fileHolders(held: (path: string) => boolean): Promise<Holder[]> {
  const found = loopHolders(held);
  for (const pid of list('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    const open = list(`/proc/${pid}/fd`).some(fd => held(target(`/proc/${pid}/fd/${fd}`)));
    if (!open && !(await maps(pid, held))) continue;
    found.push({ who: `${text(`/proc/${pid}/comm`) || 'a process'} (pid ${pid})`, release: '' });
  }
  return found;
}

function mountHolders(mount: MountEntry): Holder[] {
  return listMounts()
    .filter(other => other.parent === mount.id)
    .map(other => ({
      who: `the mount on ${other.mountPoint}`,
      release: command`umount ${other.mountPoint}`,
    }));
}

function loopHolders(inside: (path: string) => boolean): Holder[] {
  const mounts = listMounts();
  const { attachments } = listAttachments();
  return list('/sys/block')
    .filter(name => name.startsWith('loop') && inside(text(`/sys/block/${name}/loop/backing_file`)))
    .map(name => {
      const device = `/dev/${name}`;
      if (attachments.some(one => one.device === device)) {
        return { who: `${device}, which is attached`, release: command`asof detach ${device}` };
      }
      const mounted = mounts.find(({ source }) => source === device)?.mountPoint;
      if (mounted === undefined) return { who: device, release: command`losetup -d ${device}` };
      // mount -o loop lets go of the device by itself then.
      return { who: `${device}, mounted on ${mounted}`, release: command`umount ${mounted}` };
    });
}

async function processHolders(inside: (path: string) => boolean): Promise<Holder[]> {
  return (await usersOf(inside)).map(({ pid, command }) => ({ who: `${command} (pid ${pid})`, release: '' }));
}

export interface User {
  readonly pid: number;
  readonly command: string;
}

/** Processes with an open file, a working directory, a root, a program or a mapping whose path `inside` accepts. */
export async function usersOf(inside: (path: string) => boolean): Promise<User[]> {
  const pids = list('/proc').filter(name => /^\d+$/.test(name));
  const holding = await Promise.all(pids.map(async pid => opens(pid, inside) || (await maps(pid, inside))));
  return pids
    .filter((_, i) => holding[i])
    .map(pid => ({ pid: Number(pid), command: text(`/proc/${pid}/comm`) || 'a process' }));
}

function opens(pid: string, inside: (path: string) => boolean): boolean {
  const links = ['cwd', 'root', 'exe', ...list(`/proc/${pid}/fd`).map(fd => `fd/${fd}`)];
  return links.some(link => inside(target(`/proc/${pid}/${link}`)));
}

/** Asynchronously, for it waits for the process's own page faults, which may wait for the mount that we serve. */
async function maps(pid: string, inside: (path: string) => boolean): Promise<boolean> {
  const map = await readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '');
  return map.split('\n').some(line => inside(line.slice(line.indexOf('/'))));
}
