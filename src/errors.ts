/**
 * The one error that asof throws on purpose.
 *
 * A message says what is wrong, the value found and what was allowed; the hint is a command to type or a place
 * to look; the code is stable, so that a script can match it. Anything else that reaches the top is a bug and is
 * shown with its stack. The list of codes for users is docs/errors.md; a test compares the two.
 */

/** Exit statuses of the command line: part of its interface. */
export const EXIT = { sound: 0, usage: 1, refused: 2, defects: 3 } as const;

const CODES = {
  /** The command line itself is wrong. */
  USAGE: EXIT.usage,
  /** The operating system refused to open or read a file. */
  IO: EXIT.refused,
  /** A named file does not exist. */
  NOT_FOUND: EXIT.refused,
  /** No format recognises the file and it may not be taken for raw. */
  FORMAT_UNKNOWN: EXIT.refused,
  /** The format is known; this image breaks its rules so that no byte of it can be vouched for. */
  IMAGE_CORRUPT: EXIT.refused,
  /** The image is sound but needs a feature that asof does not have. */
  IMAGE_UNSUPPORTED: EXIT.refused,
  /** The content is encrypted. */
  IMAGE_ENCRYPTED: EXIT.refused,
  /** A backing, parent or data file is not in any allowed folder. */
  PARENT_MISSING: EXIT.refused,
  /** The parent that was found is not the one on which the image was made. */
  PARENT_MISMATCH: EXIT.refused,
  /** The chain names a file that policy does not allow to open. */
  PARENT_FORBIDDEN: EXIT.refused,
  /** The chain leads back to itself. */
  CHAIN_CYCLE: EXIT.refused,
  /** The chain is longer than the limit. */
  CHAIN_TOO_DEEP: EXIT.refused,
  /** No point has that id, name or time. */
  POINT_UNKNOWN: EXIT.refused,
  /** A read or map request lies outside the disk. */
  OUT_OF_RANGE: EXIT.usage,
  /** Bytes of the requested range cannot be vouched for. */
  DAMAGED: EXIT.defects,
  /** The native addon is missing or does not load. */
  ADDON_MISSING: EXIT.refused,
  /** The chosen mount driver cannot be used on this host. */
  DRIVER_UNAVAILABLE: EXIT.refused,
  /** Mounting failed. */
  MOUNT_FAILED: EXIT.refused,
  /** Something else is mounted on, or occupies, the mount point. */
  MOUNT_POINT: EXIT.refused,
  /** The mount is in use. */
  MOUNT_BUSY: EXIT.refused,
  /** There is no asof mount there. */
  NOT_MOUNTED: EXIT.refused,
  /** No daemon answers on the state directory's socket. */
  DAEMON_MISSING: EXIT.refused,
  /** Another daemon has the state directory. */
  DAEMON_RUNNING: EXIT.refused,
  /** The state directory cannot be used: not the owner's alone, or not writable. */
  STATE_UNUSABLE: EXIT.refused,
  /** No volume has that name. */
  VOLUME_UNKNOWN: EXIT.refused,
  /** Another volume has that name or that origin. */
  VOLUME_EXISTS: EXIT.refused,
  /** The volume is not open; its reason says why. */
  VOLUME_NOT_OPEN: EXIT.refused,
  /** The volume has snapshots, or its live device is in use. */
  VOLUME_IN_USE: EXIT.refused,
  /** Somebody else has the origin: a mount, another asof, QEMU, a loop device, a writer. */
  ORIGIN_BUSY: EXIT.refused,
  /** The origin cannot be a volume: no file or block device, empty, or of a size that is no number of sectors. */
  ORIGIN_UNUSABLE: EXIT.refused,
  /** The store cannot be made or used. */
  STORE_UNUSABLE: EXIT.refused,
  /** No snapshot has that id. */
  SNAPSHOT_UNKNOWN: EXIT.refused,
  /** Somebody reads the snapshot. */
  SNAPSHOT_IN_USE: EXIT.refused,
  /** It is one of a group, whose members go together. */
  SNAPSHOT_GROUPED: EXIT.refused,
  /** No consumer of the volume has that name. */
  CONSUMER_UNKNOWN: EXIT.refused,
  /** The snapshot could not be taken, deleted or released. */
  SNAPSHOT_FAILED: EXIT.refused,
  /** The layer of an overlay cannot be made or opened there, or belongs to another point, or is damaged. */
  OVERLAY_UNUSABLE: EXIT.refused,
  /** The snapshot has an overlay, or somebody has the overlay open. */
  OVERLAY_IN_USE: EXIT.refused,
  /** Less can be said of the moment than what was asked for. */
  CONSISTENCY_UNMET: EXIT.refused,
  /** Holding a file system would have the daemon wait for itself. */
  HOLD_REFUSED: EXIT.refused,
  /** No quiet window came before the deadline. */
  QUIET_MISSED: EXIT.refused,
  /** A command before the moment failed. */
  COMMAND_FAILED: EXIT.refused,
  /** No job of that id is kept. */
  JOB_UNKNOWN: EXIT.refused,
  /** The configuration names no such schedule. */
  SCHEDULE_UNKNOWN: EXIT.refused,
  /** The schedule is running. */
  SCHEDULE_RUNNING: EXIT.refused,
  LEASE_UNKNOWN: EXIT.refused,
  /** The provider cannot take a snapshot of this volume, or of these volumes together. */
  PROVIDER_UNAVAILABLE: EXIT.refused,
  /** Another run is writing to the history's folder. */
  HISTORY_BUSY: EXIT.refused,
  /** A manifest, a hash tree or an image of a history is not what was written. */
  HISTORY_DAMAGED: EXIT.defects,
  /** The image that the new one is to stand on cannot be used, or the method that was asked for cannot. */
  BASE_UNUSABLE: EXIT.refused,
  /** The backup could not be finished; nothing of it is left, and the history is what it was. */
  BACKUP_FAILED: EXIT.refused,
  /** The target of a restore or mirror can be none: no file or block device, or a part of what is read. */
  TARGET_UNUSABLE: EXIT.refused,
  /** Somebody has the target of a restore: a mount, swap, another device, a daemon, a program that writes. */
  TARGET_BUSY: EXIT.refused,
  /** The target of a restore has less room than is needed. */
  TARGET_TOO_SMALL: EXIT.refused,
  /** The target of a restore holds something, and nobody said that it may go. */
  TARGET_OCCUPIED: EXIT.refused,
  /** The restore could not be finished; the message says what the target holds. */
  RESTORE_FAILED: EXIT.refused,
  /** The target of a mirror is another one than it was, or somebody has written to it since. */
  TARGET_CHANGED: EXIT.refused,
  /** More of a mirror would change than is allowed, or what is to be mirrored looks destroyed. */
  MIRROR_GUARDED: EXIT.refused,
  /** The mirror could not be finished; the message says what the target holds. */
  MIRROR_FAILED: EXIT.refused,
  /** Nothing is known of a mirror there. */
  MIRROR_UNKNOWN: EXIT.refused,
  /** Nothing of that name is attached. */
  NOT_ATTACHED: EXIT.refused,
  /** The disk has no such partition. */
  PARTITION_UNKNOWN: EXIT.refused,
  /** The disk or partition holds no file system that can be mounted here. */
  FILE_SYSTEM_UNKNOWN: EXIT.refused,
  /** Points could not be merged or deleted; each that is left is whole. */
  CONSOLIDATE_FAILED: EXIT.refused,
} as const satisfies Record<string, number>;

export type ErrorCode = keyof typeof CODES;

/** Every code, for the documentation test. */
export const ERROR_CODES = Object.keys(CODES) as readonly ErrorCode[];

export class AsofError extends Error {
  override readonly name = 'AsofError';
  readonly code: ErrorCode;
  /** What to type or where to look next; '' where the message says it all. */
  readonly hint: string;

  constructor(code: ErrorCode, message: string, hint = '', options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.hint = hint;
  }

  get exitCode(): number {
    return CODES[this.code];
  }
}

/** The errno name ("ENOENT") of an error that Node's fs module threw, else ''. */
export function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}
