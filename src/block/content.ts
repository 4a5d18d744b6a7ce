/**
 * What a disk or partition holds, by what file systems and others write at fixed places: its kind, label and UUID. The names
 * are those of util-linux's blkid, and so is what counts as a label or UUID. One reader a family, in content/; each says the
 * specification that it follows. What is read is not to be trusted: a reader asks for a bounded number of bytes, and takes
 * what is not plausible for something else.
 */

import { apfs, hfsPlus } from './content/apple.js';
import { btrfs, f2fs, xfs } from './content/b-trees.js';
import { bitlocker, linuxRaid, luks, lvm } from './content/containers.js';
import { exfat } from './content/exfat.js';
import { ext } from './content/ext.js';
import { fat } from './content/fat.js';
import { iso9660 } from './content/iso9660.js';
import { others } from './content/marks.js';
import { ntfs } from './content/ntfs.js';
import { swap } from './content/swap.js';
import { zfs } from './content/zfs.js';

export interface Content {
  /** As blkid calls it: ext4, xfs, vfat, crypto_LUKS, LVM2_member. */
  readonly type: string;
  /** What is more to be said of the kind, such as FAT32 or 2 of LUKS; '' where nothing is. */
  readonly version: string;
  /** '' where it has none. */
  readonly label: string;
  readonly uuid: string;
}

/** Where bytes come from: fewer than asked for where it ends. */
export interface Probed {
  /** Bytes. */
  readonly size: number;
  readonly read: (offset: number, length: number) => Promise<Buffer>;
}

/** `head` has the first `REACH` bytes, fewer where it is shorter. undefined: not this. */
export type ContentReader = (
  head: Buffer,
  disk: Probed,
) => Promise<Content | undefined> | Content | undefined;

/** Bytes from the start within which all marks lie, but those at the end. */
export const REACH = 128 * 1024;

/** In this order: what wraps something else comes before it, and what is told by little comes last. */
const READERS: readonly ContentReader[] = [
  luks,
  lvm,
  linuxRaid,
  bitlocker,
  zfs,
  btrfs,
  xfs,
  ext,
  ntfs,
  exfat,
  apfs,
  hfsPlus,
  iso9660,
  swap,
  f2fs,
  others,
  // A boot sector may stand before anything.
  fat,
];

/** undefined where nothing that is known is there. Throws what reading throws. */
export async function contentOf(disk: Probed): Promise<Content | undefined> {
  const head = await disk.read(0, Math.min(REACH, disk.size));
  for (const reader of READERS) {
    const content = await reader(head, disk);
    if (content) return content;
  }
  return undefined;
}

/** All that it could be taken for: what was there before leaves its marks. Throws what reading throws. */
export async function contentsOf(disk: Probed): Promise<Content[]> {
  const head = await disk.read(0, Math.min(REACH, disk.size));
  const found = await Promise.all(READERS.map(async reader => reader(head, disk)));
  return found.filter(one => one !== undefined);
}
