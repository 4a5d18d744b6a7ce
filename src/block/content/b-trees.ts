/**
 * XFS (xfs_dsb in fs/xfs/libxfs/xfs_format.h), btrfs (btrfs_super_block in include/uapi/linux/btrfs_tree.h) and F2FS
 * (f2fs_super_block in include/linux/f2fs_fs.h).
 */
import type { ContentReader } from '../content.js';
import { hasAt, textAt, uuidAt, wideAt } from './fields.js';

export const xfs: ContentReader = head =>
  hasAt(head, 0, 'XFSB')
    ? { type: 'xfs', version: '', label: textAt(head, 108, 12), uuid: uuidAt(head, 32) }
    : undefined;

const BTRFS = 64 * 1024;

export const btrfs: ContentReader = head =>
  hasAt(head, BTRFS + 64, '_BHRfS_M')
    ? { type: 'btrfs', version: '', label: textAt(head, BTRFS + 299, 256), uuid: uuidAt(head, BTRFS + 32) }
    : undefined;

export const f2fs: ContentReader = head =>
  hasAt(head, 1024, '\x10\x20\xf5\xf2')
    ? { type: 'f2fs', version: '', label: wideAt(head, 1148, 1024), uuid: uuidAt(head, 1132) }
    : undefined;
