/**
 * The second mount driver: the same tree over the package fuse-native (libfuse 2), for macOS and for hosts where the
 * native session cannot be used. Names and attributes pass through JavaScript; bytes of disks do not: the engine
 * fills libfuse's buffer.
 *
 * What the package does not do by itself, and how it is done here:
 * - It knows no option `ro`, and its own unmount is always lazy: both are replaced.
 * - It hands libfuse's buffer to a read for as long as the read takes, but takes it back after a time-out: none is set.
 * - It does not tell when somebody else unmounts. libfuse then closes its descriptor of /dev/fuse, which is seen in
 *   /proc/self/fd; elsewhere than on Linux only the own unmount is known.
 * - libfuse 2 tells the kernel nothing by itself, and knows a file by its path: under a name that shows another disk, an
 *   old handle and a new one would share pages. So a mount keeps the tree that it was made with.
 * - libfuse 2 cannot answer SEEK_DATA and SEEK_HOLE, so that a disk counts as all data.
 *
 * Attributes are not cached by the kernel (`attr_timeout=0`), for a text file may grow; pages are kept while size
 * and modification time stay (`auto_cache`), which for a disk is for ever.
 */
import { accessSync, constants, existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { AsofError, errnoOf } from '../errors.js';
import type { EndReason, MountDriver, Mounted, MountOptions } from './driver.js';
import { clear, freeMountPoint } from './mount-point.js';
import { isMounted, type MountEntry, mountAt } from './mounts.js';
import { type NumberedEntry, Numbers } from './numbers.js';
import { register } from './registry.js';
import type { Directory, Entry, Tree } from './tree.js';
import { unmountEntry } from './unmount.js';

/** The part of the package that is used; it comes without types. */
interface Fuse {
  mount(done: (error: Error | null) => void): void;
  unmount(done: (error: Error | null) => void): void;
  _fuseOptions: () => string;
}
interface FusePackage {
  new (mountPoint: string, operations: Operations, options: { timeout: false }): Fuse;
  unmount: (mountPoint: string, done: (error: Error | null) => void) => void;
}

type Answer<T> = (status: number, value?: T) => void;

interface Operations {
  getattr(path: string, answer: Answer<Stat>): void;
  readdir(path: string, answer: Answer<string[]>): void;
  open(path: string, flags: number, answer: Answer<number>): void;
  release(path: string, handle: number, answer: Answer<never>): void;
  read(
    path: string,
    handle: number,
    buffer: Buffer,
    length: number,
    offset: number,
    answer: Answer<never>,
  ): void;
  statfs(path: string, answer: Answer<Record<string, number>>): void;
}

interface Stat {
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  size: number;
  blocks: number;
  blksize: number;
  mtime: Date;
  atime: Date;
  ctime: Date;
}

const ENOENT = -2;
const EIO = -5;
const EBADF = -9;
const ENOTDIR = -20;
const EISDIR = -21;

/** Bytes of a request: libfuse 2 takes no larger ones. */
const MAX_READ = 128 * 1024;

/** Bytes of the path of a mount point and of all options; the package cuts off what is longer. */
const MAX_TEXT = 1023;

/** Milliseconds between two looks at whether the mount is still there. */
const WATCH = 100;

export const fuseNative: MountDriver = {
  name: 'fuse-native',
  can: { write: false, change: false },
  unavailable() {
    const loaded = load();
    return typeof loaded === 'string' ? loaded : noDevice();
  },
  mount,
};

let loaded: FusePackage | string | undefined;

/** The package, or in words why it cannot be used. */
function load(): FusePackage | string {
  if (loaded !== undefined) return loaded;
  try {
    loaded = createRequire(import.meta.url)('fuse-native') as FusePackage;
  } catch (error) {
    const text = error instanceof Error ? error.message.split('\n')[0]! : String(error);
    if (errnoOf(error) === 'MODULE_NOT_FOUND' && text.includes("'fuse-native'")) {
      loaded = 'the package fuse-native is not installed (npm install fuse-native)';
    } else if (text.includes('libfuse')) {
      loaded = `needs the library libfuse 2, Debian's package libfuse2: ${text}`;
    } else {
      loaded = `the package fuse-native does not load: ${text}`;
    }
  }
  return loaded;
}

/** Why /dev/fuse cannot be used; libfuse, and fusermount for it, opens it with the rights of this user. */
function noDevice(): string | undefined {
  if (process.platform !== 'linux') return undefined;
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '/dev/fuse does not exist (modprobe fuse)';
    return '/dev/fuse may not be opened by this user';
  }
}

async function mount(tree: Tree, options: MountOptions): Promise<Mounted> {
  const fusePackage = load();
  if (typeof fusePackage === 'string') {
    throw new AsofError('DRIVER_UNAVAILABLE', `the mount driver fuse-native cannot be used: ${fusePackage}`);
  }
  const all = new Numbers(tree).first;
  if (options.writable || all.some(({ entry }) => entry.kind === 'disk' && entry.writable)) {
    throw cannot('show a disk that can be written');
  }
  const mountPoint = await freeMountPoint(options.mountPoint);
  if (Buffer.byteLength(mountPoint) > MAX_TEXT) {
    throw new AsofError('MOUNT_POINT', `${mountPoint} is longer than ${MAX_TEXT} bytes`, '--driver native');
  }
  if (options.allowOther) requireAllowOther(mountPoint);
  const text = optionText(options);
  const fuse = new fusePackage(mountPoint, operations(tree, all), { timeout: false });
  fuse._fuseOptions = () => text;
  const before = new Set(fuseDescriptors());
  await new Promise<void>((done, failed) => {
    fuse.mount(error => (error ? failed(mountError(mountPoint, error)) : done()));
  });
  const fd = fuseDescriptors().find(one => !before.has(one));
  const entry = mountAt(mountPoint);
  const letGo = () => release(fusePackage, fuse);
  if (fd === undefined || !entry) return unwatched(fuse, mountPoint);
  return watched(entry, fd, letGo);
}

function cannot(what: string): AsofError {
  return new AsofError(
    'DRIVER_UNAVAILABLE',
    `the mount driver fuse-native cannot ${what}`,
    '--driver native',
  );
}

/** What a mount of this driver does not do, however it is asked. */
const fixed: Pick<Mounted, 'update' | 'refresh'> = {
  update: async () => {
    throw cannot('change what a mount shows');
  },
  refresh: async () => {
    throw cannot('make the kernel read a disk again');
  },
};

/** libfuse 2 refuses this without a word. Throws MOUNT_FAILED. */
function requireAllowOther(mountPoint: string): void {
  if (process.platform !== 'linux' || process.geteuid?.() === 0) return;
  const config = existsSync('/etc/fuse.conf') ? readFileSync('/etc/fuse.conf', 'utf8') : '';
  if (/^\s*user_allow_other\b/m.test(config)) return;
  throw new AsofError(
    'MOUNT_FAILED',
    `cannot mount on ${mountPoint}: only root may let other users in`,
    'root must write user_allow_other into /etc/fuse.conf',
  );
}

/** The options of the mount, as libfuse takes them: a comma in a value is escaped. */
function optionText({ source, allowOther }: MountOptions): string {
  const name = source.replace(/[\\,]/g, '\\$&');
  const options = [
    'ro',
    'subtype=asof',
    `max_read=${MAX_READ}`,
    'sync_read',
    'auto_cache',
    'attr_timeout=0',
    'entry_timeout=3600',
    ...(allowOther ? ['allow_other'] : []),
  ].join(',');
  const all = `-o${options},fsname=${name}`;
  return Buffer.byteLength(all) <= MAX_TEXT ? all : `-o${options},fsname=asof`;
}

function mountError(mountPoint: string, error: Error): AsofError {
  const code = /Mountpoint/.test(error.message) ? 'MOUNT_POINT' : 'MOUNT_FAILED';
  const what = error.message === 'fuse failed' ? 'libfuse refused the mount' : error.message;
  return new AsofError(code, `cannot mount on ${mountPoint}: ${what}`, '', { cause: error });
}

/**
 * The mount has gone; what is left is to let go of the event loop. The package does so behind its own unmount, which
 * would fail by now.
 */
function release(fusePackage: FusePackage, fuse: Fuse): Promise<void> {
  const theirs = fusePackage.unmount;
  fusePackage.unmount = (_mountPoint, done) => done(null);
  try {
    return new Promise(done => fuse.unmount(() => done()));
  } finally {
    fusePackage.unmount = theirs;
  }
}

/** A mount on Linux. `fd` is libfuse's descriptor of /dev/fuse, which it closes when the connection has ended. */
function watched(entry: MountEntry, fd: number, letGo: () => Promise<void>): Mounted {
  const unregister = register(entry);
  let own = false;
  const ended = new Promise<EndReason>(done => {
    const timer = setInterval(async () => {
      if (isFuse(fd)) return;
      clearInterval(timer);
      // An aborted connection leaves a mount behind that nobody serves.
      const dead = isMounted(entry);
      if (dead) await clear(entry).catch(() => {});
      await letGo();
      unregister();
      done(dead ? 'failed' : own ? 'unmounted' : 'unmounted elsewhere');
    }, WATCH);
  });
  return {
    ...fixed,
    mountPoint: entry.mountPoint,
    ended,
    async unmount({ lazy = false } = {}) {
      const before = own;
      own = true;
      try {
        await unmountEntry(entry, { lazy });
      } catch (error) {
        own = before;
        throw error;
      }
      if (!lazy) await ended;
    },
  };
}

/** A mount on macOS: the package's own unmount is the only one that is known. */
function unwatched(fuse: Fuse, mountPoint: string): Mounted {
  let finish: (reason: EndReason) => void = () => {};
  const ended = new Promise<EndReason>(done => {
    finish = done;
  });
  return {
    ...fixed,
    mountPoint,
    ended,
    async unmount() {
      await new Promise<void>((done, failed) => {
        fuse.unmount(error => {
          if (error) failed(new AsofError('MOUNT_BUSY', `cannot unmount ${mountPoint}: ${error.message}`));
          else done();
        });
      });
      finish('unmounted');
    },
  };
}

/** The descriptors of this process that lead to /dev/fuse. */
function fuseDescriptors(): number[] {
  try {
    return readdirSync('/proc/self/fd').map(Number).filter(isFuse);
  } catch {
    return [];
  }
}

function isFuse(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === '/dev/fuse';
  } catch {
    return false;
  }
}

/** What cannot be told is an error, and never an answer that does not come. */
function attempt(answer: (code: number) => void, work: () => Promise<() => void>): void {
  work().then(
    say => say(),
    () => answer(EIO),
  );
}

/** The tree as libfuse asks for it: by path, and by the handle of an open file. */
function operations(tree: Tree, all: readonly NumberedEntry[]): Operations {
  const children = new Map<Entry, Map<string, Entry>>();
  for (const { parent, entry } of all) {
    const names = children.get(all[parent - 1]!.entry) ?? new Map<string, Entry>();
    if (entry !== tree) names.set(entry.name, entry);
    children.set(all[parent - 1]!.entry, names);
  }
  const handles = new Map<number, { readonly entry: Entry; readonly text: Buffer }>();
  const texts = new Map<Entry, { readonly text: string; readonly since: Date }>();
  let lastHandle = 0;

  const grown = new Map<Entry, Map<string, Entry>>();

  /** What a directory holds besides, by name. */
  const more = async (entry: Directory): Promise<Map<string, Entry>> => {
    let names = grown.get(entry);
    if (!names) {
      names = new Map((await entry.more?.())?.map(one => [one.name, one]));
      grown.set(entry, names);
    }
    return names;
  };

  const find = async (path: string): Promise<Entry | undefined> => {
    let entry: Entry | undefined = tree;
    for (const name of path.split('/').filter(part => part !== '')) {
      if (entry?.kind !== 'directory') return undefined;
      entry =
        children.get(entry)?.get(name) ??
        entry.find?.(name) ??
        (name.startsWith('@') ? undefined : (await more(entry)).get(name));
    }
    return entry;
  };

  /** The text now, and since when it is that: a new time makes the kernel drop what it holds of the old text. */
  const told = async (entry: Entry & { kind: 'text' }) => {
    const text = await entry.text();
    let known = texts.get(entry);
    if (known?.text !== text) {
      known = { text, since: known ? new Date() : entry.modified };
      texts.set(entry, known);
    }
    return known;
  };

  const stat = async (entry: Entry): Promise<Stat> => {
    const text = entry.kind === 'text' ? await told(entry) : undefined;
    const size = text ? Buffer.byteLength(text.text) : entry.kind === 'disk' ? entry.disk.size : 0;
    const modified = text?.since ?? entry.modified;
    const folders =
      entry.kind === 'directory' ? entry.entries.filter(one => one.kind === 'directory').length : 0;
    return {
      mode: entry.kind === 'directory' ? 0o40555 : 0o100444,
      nlink: entry.kind === 'directory' ? 2 + folders : 1,
      uid: process.getuid?.() ?? 0,
      gid: process.getgid?.() ?? 0,
      size,
      blocks: Math.ceil(((entry.kind === 'disk' ? entry.disk.allocated : undefined) ?? size) / 512),
      blksize: MAX_READ,
      mtime: modified,
      atime: modified,
      ctime: modified,
    };
  };

  return {
    getattr(path, answer) {
      attempt(answer, async () => {
        const entry = await find(path);
        if (!entry) return () => answer(ENOENT);
        const found = await stat(entry);
        return () => answer(0, found);
      });
    },
    readdir(path, answer) {
      attempt(answer, async () => {
        const entry = await find(path);
        if (entry?.kind !== 'directory') return () => answer(entry ? ENOTDIR : ENOENT);
        const names = [...entry.entries.map(({ name }) => name), ...(await more(entry)).keys()];
        return () => answer(0, ['.', '..', ...names]);
      });
    },
    open(path, _flags, answer) {
      attempt(answer, async () => {
        const entry = await find(path);
        if (!entry) return () => answer(ENOENT);
        if (entry.kind === 'directory') return () => answer(EISDIR);
        const text = entry.kind === 'text' ? Buffer.from((await told(entry)).text) : Buffer.alloc(0);
        do lastHandle = (lastHandle + 1) % 2 ** 31;
        while (handles.has(lastHandle));
        const handle = lastHandle;
        handles.set(handle, { entry, text });
        return () => answer(0, handle);
      });
    },
    release(_path, handle, answer) {
      handles.delete(handle);
      answer(0);
    },
    read(_path, handle, buffer, length, offset, answer) {
      const opened = handles.get(handle);
      if (!opened) return answer(EBADF);
      const { entry, text } = opened;
      const size = entry.kind === 'disk' ? entry.disk.size : text.length;
      const count = Math.max(0, Math.min(length, size - offset));
      if (count === 0) return answer(0);
      if (entry.kind !== 'disk') return answer(text.copy(buffer, 0, offset, offset + count));
      // Whatever went wrong, it is an error for all of the request: never fewer bytes, never other bytes.
      entry.disk.native.read(offset, buffer.subarray(0, count)).then(
        () => answer(count),
        () => answer(EIO),
      );
    },
    statfs(_path, answer) {
      const bytes = all.reduce((sum, { entry }) => sum + (entry.kind === 'disk' ? entry.disk.size : 0), 0);
      answer(0, {
        bsize: 4096,
        frsize: 4096,
        blocks: Math.min(2 ** 32 - 1, Math.ceil(bytes / 4096)),
        bfree: 0,
        bavail: 0,
        files: all.length,
        ffree: 0,
        favail: 0,
        namemax: 255,
      });
    },
  };
}
