/**
 * QEMU's locks on an image file: block/file-posix.c, raw_apply_lock_bytes and raw_check_lock_bytes.
 *
 * A permission is a byte. Who has a permission holds a shared lock on byte 100 + n, who does not share one with others
 * holds a shared lock on byte 200 + n. Two users get along if none has what the other does not share. Taking all one's
 * locks first and looking at those of others afterwards leaves no gap: of two that come at once, at least one sees the
 * other. What is said of QEMU holds for a second asof as well.
 */
import type { Addon } from '../native.js';

/** Consistent read, write, write unchanged, resize: BLK_PERM_* of include/block/block-common.h. */
const PERMISSIONS = { consistentRead: 0, write: 1, writeUnchanged: 2, resize: 3 } as const;
const HELD = 100;
const UNSHARED = 200;

/** What a volume does with its origin, and what nobody else may do meanwhile. */
const OURS = [PERMISSIONS.consistentRead, PERMISSIONS.write];
const NOT_OTHERS = [PERMISSIONS.write, PERMISSIONS.writeUnchanged, PERMISSIONS.resize];

type Locks = Pick<Addon, 'lockRange' | 'rangeLocked'>;

/**
 * Takes the locks of a writer who shares reading only; they last while `fd` or a duplicate of it is open. undefined, or
 * in words who is in the way. Throws where the file system knows no locks.
 */
export function lockAsQemu({ lockRange, rangeLocked }: Locks, fd: number): string | undefined {
  for (const permission of OURS)
    if (!lockRange(fd, HELD + permission, 1)) return 'its locks are held exclusively';
  for (const permission of NOT_OTHERS) {
    if (!lockRange(fd, UNSHARED + permission, 1)) return 'its locks are held exclusively';
  }
  if (OURS.some(permission => rangeLocked(fd, UNSHARED + permission, 1))) {
    return 'QEMU, or another asof, has it and shares it with no writer';
  }
  if (NOT_OTHERS.some(permission => rangeLocked(fd, HELD + permission, 1))) {
    return 'QEMU, or another asof, has it open for writing';
  }
  return undefined;
}
