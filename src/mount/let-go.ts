/**
 * Takes an attachment down, as far as it stands on a mount of asof: its file systems, its loop device, and the second place of
 * that mount. What others have put on the device is never touched: then it is busy, or with `lazy` goes when they do.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AsofError, errnoOf } from '../errors.js';
import { command } from '../shell.js';
import { type AttachedFileSystem, type Attachment, diskFolderOf, listAttachments } from './attachments.js';
import { holdersOf, type User, usersOf } from './holders.js';
import { closeLoop, type LoopDevice, loopsOn } from './loop-device.js';
import { detach } from './mount-point.js';
import { FS_TYPE, isMounted, listMounts, type MountEntry, mountAt } from './mounts.js';
import { runTool } from './tool.js';

export interface LetGoOptions {
  readonly lazy?: boolean;
}

/** Milliseconds for a FUSE program to end, and for whoever looks at a new device in passing. */
const PATIENCE = 3000;
const STEP = 50;

/** Programs that serve what is attached: they go with it. */
const SERVERS = ['ntfs-3g', 'mount.ntfs-3g', 'mount.ntfs', 'fuse2fs', 'fusefat', 'mount.exfat-fuse'];
/** Characters of a command that the kernel keeps (TASK_COMM_LEN). */
const COMMAND = 15;
const isServer = ({ command: name }: User) => SERVERS.some(one => one.slice(0, COMMAND) === name);

/** The loop devices of an attachment; more than one where the record of the first was never written. */
export function loopsOf(attachment: Pick<Attachment, 'folder'>): LoopDevice[] {
  const below = `${diskFolderOf(attachment)}/`;
  return loopsOn(path => path.startsWith(below));
}

/** Those on `mount`, whether it was made for them or not. */
export function attachmentsOn({ mountPoint }: MountEntry): Attachment[] {
  return listAttachments().attachments.filter(
    one => one.mountPoint === mountPoint || diskFolderOf(one) === mountPoint,
  );
}

/** Throws MOUNT_BUSY, unless `lazy`; then file systems before the one that is busy have gone already. */
export async function letGo(attachment: Attachment, options: LetGoOptions = {}): Promise<void> {
  const lazy = options.lazy ?? false;
  const loops = loopsOf(attachment);
  const isOurs = isOn(attachment, loops);
  const mounts = attachment.fileSystems.flatMap(({ mountPoint, source }) =>
    listMounts().filter(
      one => one.mountPoint === mountPoint && (isOurs(one.source) || one.source === source),
    ),
  );
  // All or nothing, as far as that can be told before.
  if (!lazy) for (const mount of mounts) await refuseHeld(mount, attachment);
  for (const { mountPoint, source } of [...attachment.fileSystems].reverse()) {
    for (let mount = mountAt(mountPoint); mount && (isOurs(mount.source) || mount.source === source); ) {
      await unmountOne(mount, attachment, lazy);
      const next = mountAt(mountPoint);
      mount = next && next.id !== mount.id ? next : undefined;
    }
  }
  if (!lazy) {
    const [foreign] = listMounts().filter(({ source }) => isOurs(source));
    if (foreign) {
      const what = `${foreign.source} is mounted on ${foreign.mountPoint}, by somebody else`;
      throw busy(attachment, what, command`umount ${foreign.mountPoint}`);
    }
    const users = await awaitUsers(isOurs);
    if (users.length > 0) throw busy(attachment, `in use by ${named(users)}`);
  }
  for (const loop of loops) {
    if ((await closeLoop(loop, lazy)) || lazy) continue;
    throw busy(attachment, `${loop.device} is in use, by nobody whom this user may see`);
  }
  const second = mountAt(diskFolderOf(attachment));
  if (!attachment.own && second?.type === FS_TYPE) await detach(second.mountPoint, lazy);
}

/** Throws MOUNT_BUSY where somebody is in it. */
async function refuseHeld(mount: MountEntry, attachment: Attachment): Promise<void> {
  const holders = await holdersOf(mount);
  if (holders.length === 0) return;
  const who = holders.map(({ who }) => who).join(', ');
  throw busy(
    attachment,
    `${mount.mountPoint} is in use by ${who}`,
    holders.find(one => one.release)?.release,
  );
}

/** Whether a path is the device of an attachment, a partition of it, or a file of its disk. */
function isOn(attachment: Attachment, loops: readonly LoopDevice[]): (path: string) => boolean {
  const below = `${diskFolderOf(attachment)}/`;
  return path => {
    if (path.startsWith(below)) return true;
    return loops.some(
      ({ device }) =>
        path === device || (path.startsWith(`${device}p`) && /^\d+$/.test(path.slice(device.length + 1))),
    );
  };
}

async function unmountOne(mount: MountEntry, attachment: Attachment, lazy: boolean): Promise<void> {
  try {
    // Never by this process, where it is root: it may be the one that serves the disk, and what is unmounted may read it.
    if (process.geteuid?.() === 0) await runTool('umount', [...(lazy ? ['--lazy'] : []), mount.mountPoint]);
    else await detach(mount.mountPoint, lazy);
  } catch (error) {
    if (!isMounted(mount)) return;
    const why = error instanceof AsofError ? error.message : errnoOf(error) || String(error);
    if (!/busy/i.test(why)) {
      throw new AsofError('IO', `cannot unmount ${mount.mountPoint}: ${why}`, '', { cause: error });
    }
    await refuseHeld(mount, attachment);
    throw busy(attachment, `${mount.mountPoint} is in use, by nobody whom this user may see`);
  }
}

/** Who has the device or its partitions open still, when the programs that served its file systems have ended. */
async function awaitUsers(isOurs: (path: string) => boolean): Promise<User[]> {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const users = await usersOf(isOurs);
    if (users.length === 0) return users;
    if (Date.now() >= end || !users.some(isServer)) return users;
    await sleep(STEP);
  }
}

/** Processes that use an attachment: in its file systems, or with its devices open. */
export async function usersOfAttachment(attachment: Attachment): Promise<User[]> {
  const isOurs = isOn(attachment, loopsOf(attachment));
  const roots = attachment.fileSystems.map(({ mountPoint }: AttachedFileSystem) => mountPoint);
  const inside = (path: string) => roots.some(root => path === root || path.startsWith(`${root}/`));
  const users = await usersOf(path => inside(path) || isOurs(path));
  return users.filter(user => !isServer(user));
}

function named(users: readonly User[]): string {
  return users.map(({ command: name, pid }) => `${name} (pid ${pid})`).join(', ');
}

function busy(attachment: Attachment, why: string, release?: string): AsofError {
  const name = attachment.device ?? attachment.dir ?? attachment.asked;
  const lazy = command`asof detach --lazy ${name}`;
  return new AsofError(
    'MOUNT_BUSY',
    `${name} is busy: ${why}`,
    release ? `${release} first, or ${lazy}` : lazy,
  );
}
