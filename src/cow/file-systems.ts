/**
 * The file systems that live on a volume: mounted on loop devices over its live file, on their partitions, on what
 * device-mapper or md makes of those; and again on loop devices over files inside of them. All of it is read from sysfs
 * and mountinfo (proc(5)), in every mount namespace, without touching any of them.
 *
 * Deeper ones come first: they must be still before what they stand on.
 */
import { fstatSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type MountEntry, parseMountInfo } from '../mountinfo.js';
import { list, target, text } from '../sysfs.js';
import { deviceNumber } from './block-device.js';

/** One mount of a file system; btrfs and FUSE have numbers of no device. */
interface Mount extends MountEntry {
  /** What leads to it from here: "", or "/proc/PID/root". */
  readonly root: string;
}

export interface FileSystem {
  readonly device: string;
  readonly type: string;
  /** Where people know it; the first of its mounts. */
  readonly mountPoint: string;
  readonly mounts: readonly Mount[];
  /** How many loop devices it stands on. */
  readonly level: number;
  /** Devices over files inside of it: their numbers. */
  readonly inside: readonly string[];
}

/** Bounds a circle, which only a race could show. */
const DEEPEST = 16;

/** Those on the file `path`, without symbolic links: the deepest first. */
export function fileSystemsOn(path: string): FileSystem[] {
  const loops = loopFiles();
  const mounts = allMounts();
  const found = new Map<string, FileSystem>();
  const namesOver = (file: string): Set<string> => {
    const names = new Set<string>();
    for (const loop of loops) if (loop.file === file) addDevices(loop.name, names);
    addSiblings(names);
    return names;
  };
  const numbersOf = (names: Iterable<string>) =>
    new Set([...names].map(name => text(`/sys/class/block/${name}/dev`)));
  const visit = (file: string, level: number) => {
    if (level > DEEPEST) return;
    const names = namesOver(file);
    const numbers = numbersOf(names);
    const here = mounts.filter(
      mount => numbers.has(mount.device) || names.has(deviceName(mount.source)) || mount.source === file,
    );
    for (const { device } of here) {
      const known = found.get(device);
      if (known && known.level >= level) continue;
      const all = mounts.filter(mount => mount.device === device);
      const { mountPoint, type } = all[0]!;
      const files = new Set(loops.map(loop => loop.file).filter(one => lies(one, device, mounts)));
      const inside = [...files].flatMap(one => [...numbersOf(namesOver(one))]);
      found.set(device, { device, type, mountPoint, mounts: all, level, inside });
      for (const one of files) visit(one, level + 1);
    }
  };
  visit(path, 1);
  return [...found.values()].sort((a, b) => b.level - a.level);
}

/** The number of the file system that the open file `fd` lies on; '' where that is not known. */
export function fileSystemOf(fd: number | string): string {
  const id = /^mnt_id:\s*(\d+)/m.exec(text(`/proc/self/fdinfo/${fd}`))?.[1];
  return allMounts(false).find(mount => mount.id === Number(id))?.device ?? '';
}

/** The mount's number, as the kernel tells it of an open file. */
export function mountIdOf(fd: number): number {
  return Number(/^mnt_id:\s*(\d+)/m.exec(text(`/proc/self/fdinfo/${fd}`))?.[1] ?? -1);
}

export interface OwnFile {
  readonly path: string;
  /** The number of its file system; of the block device that it is, else ''. */
  readonly device: string;
  readonly block: string;
}

/** Open files through which this process may write. */
export function ownWritable(): OwnFile[] {
  const mounts = new Map(allMounts(false).map(mount => [mount.id, mount.device]));
  return list('/proc/self/fd').flatMap(fd => {
    const info = text(`/proc/self/fdinfo/${fd}`);
    const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8);
    const device = mounts.get(Number(/^mnt_id:\s*(\d+)/m.exec(info)?.[1] ?? -1));
    if ((flags & 3) === 0 || device === undefined) return [];
    return [{ path: target(`/proc/self/fd/${fd}`), device, block: blockNumber(Number(fd)) }];
  });
}

function blockNumber(fd: number): string {
  try {
    const stat = fstatSync(fd, { bigint: true });
    return stat.isBlockDevice() ? deviceNumber(stat.rdev) : '';
  } catch {
    return '';
  }
}

/** Whether the look-up of `file` ends in the file system `device`: the longest mount point above it is one of its. */
function lies(file: string, device: string, mounts: readonly Mount[]): boolean {
  let best: Mount | undefined;
  for (const mount of mounts) {
    const below = mount.mountPoint === '/' || file.startsWith(`${mount.mountPoint}/`);
    // A later mount on the same directory hides the earlier.
    if (mount.root === '' && below && mount.mountPoint.length >= (best?.mountPoint.length ?? 0)) best = mount;
  }
  return best?.device === device;
}

/** The device, its partitions, and what is made of them. */
function addDevices(name: string, names: Set<string>): void {
  if (names.has(name)) return;
  names.add(name);
  const folder = `/sys/class/block/${name}`;
  for (const holder of list(join(folder, 'holders'))) addDevices(holder, names);
  for (const entry of list(folder)) {
    if (text(join(folder, entry, 'partition')) !== '') addDevices(entry, names);
  }
}

/** A btrfs names one of its devices as its source; any of them may be ours. */
function addSiblings(names: Set<string>): void {
  for (const uuid of list('/sys/fs/btrfs')) {
    const devices = list(`/sys/fs/btrfs/${uuid}/devices`);
    if (devices.some(name => names.has(name))) for (const name of devices) names.add(name);
  }
}

function loopFiles(): { readonly name: string; readonly file: string }[] {
  return list('/sys/block')
    .filter(name => name.startsWith('loop'))
    .map(name => ({ name, file: text(`/sys/block/${name}/loop/backing_file`).replace(/ \(deleted\)$/, '') }))
    .filter(({ file }) => file !== '');
}

function deviceName(source: string): string {
  if (!source.startsWith('/dev/')) return '';
  try {
    return basename(realpathSync(source));
  } catch {
    return '';
  }
}

/** Our own namespace's mounts first. */
function allMounts(others = true): Mount[] {
  const mounts = mountsOf('self', '');
  if (!others) return mounts;
  const seen = new Set([target('/proc/self/ns/mnt')]);
  for (const pid of list('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const namespace = target(`/proc/${pid}/ns/mnt`);
    if (namespace === '' || seen.has(namespace)) continue;
    seen.add(namespace);
    mounts.push(...mountsOf(pid, `/proc/${pid}/root`));
  }
  return mounts;
}

function mountsOf(pid: string, root: string): Mount[] {
  return parseMountInfo(text(`/proc/${pid}/mountinfo`)).map(entry => ({ ...entry, root }));
}
