/**
 * How each file system is mounted so that nothing is written and no journal is replayed, also one that was not unmounted: by
 * the kernel, or by a FUSE program where the kernel has none of it, or the user is not root.
 */
import { AsofError } from '../errors.js';
import { list, text } from '../sysfs.js';
import { detach } from './mount-point.js';
import { listMounts, mountAt } from './mounts.js';
import { findTool, runTool } from './tool.js';

interface FuseProgram {
  readonly program: string;
  /** Debian's name. */
  readonly package: string;
  readonly options: string;
  /** It does not say of itself what it has mounted. */
  readonly silent?: boolean;
  /** It becomes root, or lets others in: a user's own mount must do so too, or it may not look into that. */
  readonly others?: boolean;
}

export interface ReadOnlyMount {
  /** For mount(8); absent where the kernel has none that mounts without a write. */
  readonly kernel?: { readonly type: string; readonly options: string };
  readonly fuse?: FuseProgram;
}

const EXT: ReadOnlyMount = {
  kernel: { type: 'ext4', options: 'noload' },
  fuse: { program: 'fuse2fs', package: 'fuse2fs', options: 'ro,norecovery' },
};

/** By blkid's name. */
export const READ_ONLY_MOUNTS: Readonly<Record<string, ReadOnlyMount>> = {
  ext2: EXT,
  ext3: EXT,
  ext4: EXT,
  xfs: { kernel: { type: 'xfs', options: 'norecovery,nouuid' } },
  btrfs: { kernel: { type: 'btrfs', options: 'rescue=nologreplay' } },
  ntfs: {
    fuse: { program: 'ntfs-3g', package: 'ntfs-3g', options: 'ro,norecover,nodev,nosuid', others: true },
  },
  vfat: {
    kernel: { type: 'vfat', options: '' },
    fuse: { program: 'fusefat', package: 'fusefat', options: 'ro', silent: true },
  },
  exfat: {
    kernel: { type: 'exfat', options: '' },
    fuse: { program: 'mount.exfat-fuse', package: 'exfat-fuse', options: 'ro', others: true },
  },
  f2fs: { kernel: { type: 'f2fs', options: 'norecovery' } },
  hfsplus: { kernel: { type: 'hfsplus', options: '' } },
  squashfs: { kernel: { type: 'squashfs', options: '' } },
  erofs: { kernel: { type: 'erofs', options: '' } },
  iso9660: { kernel: { type: 'iso9660', options: '' } },
};

export interface Mountable {
  /** A key of READ_ONLY_MOUNTS. */
  readonly type: string;
  readonly uuid: string;
  /** The device; without root the file. */
  readonly source: string;
}

/** Mounts it on an existing folder. Throws MOUNT_FAILED or DRIVER_UNAVAILABLE. */
export async function mountReadOnly(what: Mountable, mountPoint: string, isRoot: boolean): Promise<void> {
  const { kernel, fuse } = READ_ONLY_MOUNTS[what.type]!;
  if (kernel && isRoot) {
    if (what.type === 'btrfs') refuseClash(what);
    const options = ['ro', 'nodev', 'nosuid', ...(kernel.options === '' ? [] : [kernel.options])].join(',');
    try {
      await runTool('mount', ['-t', kernel.type, '-o', options, what.source, mountPoint]);
      if (what.type === 'btrfs') await checkDevice(what, mountPoint);
      return;
    } catch (error) {
      if (!fuse || !/unknown filesystem type/.test(String(error))) throw error;
    }
  }
  if (!fuse) {
    const why = `${what.type} can be mounted by root alone`;
    throw new AsofError('DRIVER_UNAVAILABLE', why, 'asof attach as root');
  }
  if (!findTool(fuse.program)) {
    const why = `${what.type} is mounted by ${fuse.program}, which is not installed`;
    throw new AsofError('DRIVER_UNAVAILABLE', why, `install it (Debian: ${fuse.package})`);
  }
  if (!isRoot && fuse.others && !mayAllowOther()) {
    const why = `${fuse.program} runs with other rights than its user, and may not look into a mount of his`;
    throw new AsofError('DRIVER_UNAVAILABLE', why, 'root must write user_allow_other into /etc/fuse.conf');
  }
  const options = fuse.silent ? `${fuse.options},fsname=${what.source}` : fuse.options;
  await runTool(fuse.program, ['-o', options, what.source, mountPoint]);
  // Some end well although they have not mounted.
  if (mountAt(mountPoint)?.type.startsWith('fuse')) return;
  throw new AsofError('MOUNT_FAILED', `${fuse.program} did not mount ${what.source} on ${mountPoint}`);
}

/** Whether users may let others into their mounts: fusermount3(1). */
export function mayAllowOther(): boolean {
  return /^\s*user_allow_other\b/m.test(text('/etc/fuse.conf'));
}

const BTRFS = '/sys/fs/btrfs';

/**
 * A btrfs whose UUID is that of one that is mounted, such as the origin itself: kernels before 6.7 would take the devices of
 * the two for one, and later ones give the second a UUID of its own while it is mounted.
 */
function refuseClash({ uuid, source }: Mountable): void {
  if (!list(BTRFS).includes(uuid) || list(`${BTRFS}/features`).includes('temp_fsid')) return;
  const devices = list(`${BTRFS}/${uuid}/devices`).map(name => `/dev/${name}`);
  const where = listMounts().find(mount => mount.type === 'btrfs' && devices.includes(mount.source));
  throw new AsofError(
    'MOUNT_FAILED',
    `${source} has the UUID ${uuid} of the btrfs that is mounted on ${where?.mountPoint ?? 'another folder'} (${devices.join(', ')}), and this kernel mounts only one of them`,
    'unmount that one first, or use a kernel from 6.7 on',
  );
}

/** What is mounted now is on our device, and on no other of the same UUID. */
async function checkDevice({ source }: Mountable, mountPoint: string): Promise<void> {
  const name = source.slice('/dev/'.length);
  const ours = list(BTRFS).find(uuid => list(`${BTRFS}/${uuid}/devices`).includes(name));
  const devices = ours === undefined ? [] : list(`${BTRFS}/${ours}/devices`);
  if (devices.length === 1 && mountAt(mountPoint)?.source === source) return;
  await detach(mountPoint, false);
  const others = devices.filter(other => other !== name).map(other => `/dev/${other}`);
  throw new AsofError(
    'MOUNT_FAILED',
    `the kernel took ${others.join(', ') || 'another device'} for the btrfs of ${source}`,
    'unmount the other btrfs of that UUID first',
  );
}
