/**
 * Unmounting, by the server itself and, for `asof umount`, from another process: when it returns, the mount is gone and
 * its server has let go of the images.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AsofError, errnoOf } from '../errors.js';
import { command } from '../shell.js';
import { type Attachment, forgetAttachment, removeMade } from './attachments.js';
import { holdersOf } from './holders.js';
import { attachmentsOn, letGo } from './let-go.js';
import { detach } from './mount-point.js';
import { canonical, FS_TYPE, isMounted, type MountEntry, mountAt } from './mounts.js';
import { isHalted, isRunning, type Registered, registered, serverOf } from './registry.js';

export interface UnmountOptions {
  /** Take it out of the tree now, whoever uses it; it ends when the last one lets go. */
  readonly lazy?: boolean;
  /** Told once, in words, where the server takes long to let go. */
  readonly waits?: (what: string) => void;
}

/** Milliseconds for which a busy mount that nobody is seen to use is asked again: a path look-up holds it in passing. */
const PATIENCE = 2000;
/** Milliseconds for a server to end after its mount has. It may be unpacking a large block. */
const RELEASE = 30_000;
const STEP = 50;

/**
 * Unmounts the asof mount on `dir` and waits for its server to let go (not if `lazy`).
 * Throws NOT_MOUNTED, MOUNT_BUSY or IO.
 */
export async function unmountAt(dir: string, options: UnmountOptions = {}): Promise<void> {
  const point = await canonical(dir);
  const mount = mountAt(point);
  if (!mount) {
    throw new AsofError('NOT_MOUNTED', `nothing is mounted on ${point}`, 'asof umount takes the mount point');
  }
  const server = serverOf(mount);
  if (mount.type !== FS_TYPE && !server) {
    throw new AsofError(
      'NOT_MOUNTED',
      `what is mounted on ${point} is not asof's: ${mount.source} (${mount.type})`,
      command`umount ${point}`,
    );
  }
  await unmountEntry(mount, options);
  if (server && !options.lazy && server.pid !== process.pid) await released(server, options.waits);
}

/** Unmounts `mount`, or does nothing where it is gone already. Throws MOUNT_BUSY or IO. */
export async function unmountEntry(mount: MountEntry, options: UnmountOptions = {}): Promise<void> {
  const lazy = options.lazy ?? false;
  const point = mount.mountPoint;
  // What was attached from it goes first, or keeps it busy.
  const attached = attachmentsOn(mount);
  for (const attachment of attached) await letGo(attachment, { lazy });
  const end = Date.now() + PATIENCE;
  while (isMounted(mount)) {
    // umount(2) takes a path, and so whatever is uppermost there.
    const top = mountAt(point);
    if (top && top.id !== mount.id) {
      throw busy(point, `${top.source} (${top.type}) is mounted over it`, command`umount ${point}`);
    }
    try {
      await detach(point, lazy);
      for (const attachment of attached) cleanUp(attachment);
      return;
    } catch (error) {
      const errno = errnoOf(error);
      if (!isMounted(mount)) return;
      if (errno !== 'EBUSY') {
        const hint = errno === 'EPERM' ? 'unmount as the user who mounted it, or as root' : '';
        throw new AsofError('IO', `cannot unmount ${point}: ${errno || String(error)}`, hint, {
          cause: error,
        });
      }
    }
    const holders = await holdersOf(mount);
    if (holders.length > 0) {
      const first = holders.find(holder => holder.release)?.release;
      throw busy(point, `in use by ${holders.map(holder => holder.who).join(', ')}`, first);
    }
    if (Date.now() >= end) throw busy(point, 'in use, by nobody whom this user may see');
    await sleep(STEP);
  }
}

/** What stays behind here is found and taken away by the next `asof attach` or `asof detach`. */
function cleanUp(attachment: Attachment): void {
  try {
    removeMade(attachment);
    forgetAttachment(attachment);
  } catch {
    // Another mount stands on it still, or somebody has put something into a folder of ours.
  }
}

function busy(point: string, why: string, release?: string): AsofError {
  const lazy = command`asof umount --lazy ${point}`;
  return new AsofError(
    'MOUNT_BUSY',
    `${point} is busy: ${why}`,
    release ? `${release} first, or ${lazy}` : lazy,
  );
}

/** Waits until `server` has taken its entry back, or is no more. */
async function released(server: Registered, waits: UnmountOptions['waits']): Promise<void> {
  const end = Date.now() + RELEASE;
  const patient = Date.now() + PATIENCE;
  let told = false;
  const serves = () =>
    registered().some(entry => entry.pid === server.pid && entry.mountId === server.mountId);
  while (isRunning(server) && serves()) {
    const now = Date.now();
    // Stopped by a signal or a debugger: it lets go of nothing until it goes on, however long one waits.
    const halted = now >= patient && isHalted(server);
    if (halted || now >= end) {
      const still = halted ? 'is stopped, and still has' : 'still reads';
      throw new AsofError(
        'MOUNT_BUSY',
        `${server.mountPoint} is unmounted, but its server (pid ${server.pid}) ${still} ${server.source}`,
        `kill ${halted ? '-CONT ' : ''}${server.pid}`,
      );
    }
    if (!told && now >= patient) {
      told = true;
      waits?.(
        `${server.mountPoint} is unmounted; its server (pid ${server.pid}) still reads ${server.source}`,
      );
    }
    await sleep(STEP / 2);
  }
}
