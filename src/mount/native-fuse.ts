/**
 * The native driver: the addon speaks the kernel's protocol (native/fuse_session.h); here are the mount itself and its
 * life. As root it mounts directly, else through fusermount3.
 */
import { accessSync, closeSync, constants, readFileSync, writeFileSync } from 'node:fs';
import { AsofError, errnoOf } from '../errors.js';
import {
  loadAddon,
  type NativeChanges,
  type NativeNode,
  type NativeSession,
  type SessionFacts,
} from '../native.js';
import type { EndReason, MountDriver, Mounted, MountOptions } from './driver.js';
import { findFusermount, fusermount } from './fusermount.js';
import { clear, freeMountPoint } from './mount-point.js';
import { FS_TYPE, isMounted, type MountEntry, mountAt } from './mounts.js';
import { type NumberedEntry, Numbers } from './numbers.js';
import { register } from './registry.js';
import type { Entry, Tree } from './tree.js';
import { unmountEntry } from './unmount.js';

/** A mount of this driver, with what it and the kernel agreed on. */
export interface NativeMounted extends Mounted {
  readonly facts: SessionFacts & NonNullable<Mounted['facts']>;
}

export interface NativeFuseDriver extends MountDriver {
  mount(tree: Tree, options: MountOptions): Promise<NativeMounted>;
}

/** KiB that the kernel reads ahead; it starts with 128, and only root may say more. */
const READ_AHEAD = 1024;

export const nativeFuse: NativeFuseDriver = {
  name: 'native',
  can: { write: true, change: true },

  unavailable() {
    if (process.platform !== 'linux') return `the native session is for Linux; this is ${process.platform}`;
    try {
      accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    } catch (error) {
      const missing = errnoOf(error) === 'ENOENT';
      return missing
        ? '/dev/fuse does not exist (modprobe fuse)'
        : '/dev/fuse may not be opened by this user';
    }
    if (process.geteuid?.() !== 0 && !findFusermount()) {
      return 'mounting without root needs fusermount3 (Debian, Fedora: package fuse3)';
    }
    return undefined;
  },

  async mount(tree, options) {
    const why = nativeFuse.unavailable();
    if (why) throw new AsofError('DRIVER_UNAVAILABLE', why, 'asof mount --driver fuse-native');
    const mountPoint = await freeMountPoint(options.mountPoint);
    const settled = { ...options, mountPoint, writable: options.writable ?? hasWritable(tree) };
    try {
      return await mounted(tree, settled, offersUring());
    } catch (error) {
      if (!(error instanceof RingsRefused)) throw error;
      return mounted(tree, settled, false);
    }
  },
};

/** The kernel offered FUSE over io_uring and then did not take the rings. */
class RingsRefused extends Error {}

function hasWritable(entry: Entry): boolean {
  return entry.kind === 'directory'
    ? entry.entries.some(hasWritable)
    : entry.kind === 'disk' && (entry.writable ?? false);
}

function offersUring(): boolean {
  try {
    return readFileSync('/sys/module/fuse/parameters/enable_uring', 'latin1').startsWith('Y');
  } catch {
    return false;
  }
}

async function mounted(tree: Tree, options: MountOptions, uring: boolean): Promise<NativeMounted> {
  const { mountPoint, writable = false } = options;
  const fd = await openMount(options);
  const numbers = new Numbers(tree);
  let session: NativeSession;
  const ended = deferred<number>();
  try {
    session = new (loadAddon().Session)({
      fd,
      threads: 0,
      uid: process.geteuid?.() ?? 0,
      gid: process.getegid?.() ?? 0,
      uring,
      writable,
      ...answers(numbers, () => session),
      ended: ended.resolve,
    });
  } catch (error) {
    closeSync(fd);
    const dead = ours(mountPoint);
    if (dead) await clear(dead);
    throw error;
  }
  const mount = ours(mountPoint);
  let facts: SessionFacts;
  try {
    facts = await session.ready();
  } catch (error) {
    const errno = await ended.promise;
    if (mount && isMounted(mount)) await clear(mount);
    if (uring && errno !== 0) throw new RingsRefused();
    throw new AsofError('MOUNT_FAILED', `the mount on ${mountPoint} ended before it was ready`, '', {
      cause: error,
    });
  }
  if (!mount) {
    session.abort();
    await ended.promise;
    throw new AsofError('MOUNT_FAILED', `${mountPoint} was unmounted before it was ready`);
  }
  setReadAhead(mount);
  return live(mount, facts, session, numbers, ended.promise);
}

function live(
  mount: MountEntry,
  facts: SessionFacts,
  session: NativeSession,
  numbers: Numbers,
  over: Promise<number>,
): NativeMounted {
  const unregister = register(mount);
  let asked = false;
  const ended = over.then(async (errno): Promise<EndReason> => {
    // The connection may end (fusectl, umount -f) and leave the mount behind, which nobody serves now.
    const left = isMounted(mount);
    if (left) await clear(mount).catch(() => {});
    unregister();
    if (errno !== 0) return 'failed';
    if (asked) return 'unmounted';
    return left ? 'failed' : 'unmounted elsewhere';
  });
  return {
    mountPoint: mount.mountPoint,
    facts: { ...facts },
    ended,
    async update(tree) {
      const { gone, fresh, accept } = numbers.compare(tree);
      const told = change(mount, session, { remove: gone, nodes: fresh.map(asNative), refresh: [] });
      accept();
      await told;
    },
    refresh: disk => change(mount, session, { remove: [], nodes: [], refresh: numbers.idsOf(disk) }),
    async unmount(options = {}) {
      const before = asked;
      asked = true;
      try {
        await unmountEntry(mount, options);
      } catch (error) {
        asked = before;
        throw error;
      }
      if (!options.lazy) await ended;
    },
  };
}

/** Throws what the session refuses before it returns a promise. */
function change({ mountPoint }: MountEntry, session: NativeSession, changes: NativeChanges): Promise<void> {
  return session.update(changes).catch(error => {
    throw new AsofError('NOT_MOUNTED', `${mountPoint} is not mounted any more`, '', { cause: error });
  });
}

/** The descriptor of /dev/fuse of a new mount. */
async function openMount(options: MountOptions): Promise<number> {
  const { mountPoint, source, allowOther, writable = false } = options;
  if (process.geteuid?.() === 0) {
    try {
      return loadAddon().mountFuse(mountPoint, source, allowOther, writable);
    } catch (error) {
      // Root in a container may lack CAP_SYS_ADMIN.
      if (errnoOf(error) !== 'EPERM' || !findFusermount()) {
        throw new AsofError('MOUNT_FAILED', `cannot mount on ${mountPoint}: ${errnoOf(error)}`, '', {
          cause: error,
        });
      }
    }
  }
  return fusermount(options);
}

function ours(mountPoint: string): MountEntry | undefined {
  const mount = mountAt(mountPoint);
  return mount?.type === FS_TYPE ? mount : undefined;
}

/** The tree as the session takes it, and the answers to what it asks. */
function answers(numbers: Numbers, session: () => NativeSession) {
  return {
    nodes: numbers.first.map(asNative),
    text(id: number, token: number) {
      const entry = numbers.entry(id);
      if (entry?.kind !== 'text') throw new Error(`there is no text ${id} any more`);
      const text = entry.text();
      if (typeof text === 'string') return text;
      text.then(
        told => session().answer(token, told),
        () => session().answer(token, null),
      );
      return undefined;
    },
    list(id: number, token: number) {
      more(numbers, session(), id).then(
        () => session().answer(token, ''),
        () => session().answer(token, null),
      );
    },
    find(parent: number, name: string) {
      const directory = numbers.entry(parent);
      const entry = directory?.kind === 'directory' ? directory.find?.(name) : undefined;
      return (entry && numbers.idOf(entry)) ?? 0;
    },
  };
}

/** Puts what a directory holds besides into the tree. The kernel is told, and asks here: nobody waits for that. */
async function more(numbers: Numbers, session: NativeSession, id: number): Promise<void> {
  const directory = numbers.entry(id);
  if (directory?.kind !== 'directory' || !directory.more) return;
  const { fresh, accept } = numbers.grow(id, await directory.more());
  if (fresh.length === 0) return;
  session.update({ remove: [], nodes: fresh.map(asNative), refresh: [] }).catch(() => {});
  accept();
}

function asNative({ id, parent, entry }: NumberedEntry): NativeNode {
  return {
    id,
    parent,
    name: entry.name,
    kind: entry.kind,
    modified: entry.modified.getTime(),
    ...(entry.kind === 'directory' && entry.more ? { partial: true } : {}),
    ...(entry.kind === 'disk' ? { disk: entry.disk.native, writable: entry.writable ?? false } : {}),
  };
}

function setReadAhead(mount: MountEntry): void {
  try {
    writeFileSync(`/sys/class/bdi/${mount.device}/read_ahead_kb`, String(READ_AHEAD));
  } catch {
    // Not root, or no sysfs: slower, not wrong.
  }
}

function deferred<T>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>(done => {
    resolve = done;
  });
  return { promise, resolve };
}
