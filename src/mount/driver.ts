/**
 * A mount driver shows a tree of names to the operating system. `native-fuse.ts` and `fuse-native.ts` implement it;
 * one conformance suite (test/mount/conformance.ts) runs on both.
 */
import type { ShownDisk, Tree } from './tree.js';

export interface MountOptions {
  /** An existing directory; absolute. */
  readonly mountPoint: string;
  /** The source that mount(8) and df(1) show, such as the image's path. */
  readonly source: string;
  /** Let other users than the one who mounts in. */
  readonly allowOther: boolean;
  /**
   * Disks may be written: the mount is not read-only, though all but those disks is. Default: whether the tree has such
   * a disk; a later one cannot bring the first.
   */
  readonly writable?: boolean;
}

/** Why a mount ended: our own unmount, somebody else's (umount, fusermount3 -u), or a failure of the session. */
export type EndReason = 'unmounted' | 'unmounted elsewhere' | 'failed';

export interface Mounted {
  readonly mountPoint: string;
  /** What the driver and the kernel agreed on, for people and logs. */
  readonly facts?: Readonly<Record<string, string | number | boolean>>;
  /** Resolves once, when nothing of the mount is left in this process. */
  readonly ended: Promise<EndReason>;
  /**
   * Shows another tree; resolves when nobody is told of the old one any more. What is the same (numbers.ts) stays; a file
   * that is open when its name goes can be read on for as long as its disk is open. Throws NOT_MOUNTED, or
   * DRIVER_UNAVAILABLE where the driver cannot (`can.change`).
   */
  update(tree: Tree): Promise<void>;
  /**
   * Makes the kernel forget what it holds of the bytes of `disk`, so that a later read is asked again: for a snapshot that
   * has become invalid. Resolves when it has. Throws as `update` does.
   */
  refresh(disk: ShownDisk): Promise<void>;
  /**
   * Unmounts and waits for `ended`. Throws MOUNT_BUSY, naming who holds it, unless `lazy`: then it is detached now
   * and ends when the last user lets go.
   */
  unmount(options?: { readonly lazy?: boolean }): Promise<void>;
}

export interface MountDriver {
  readonly name: 'native' | 'fuse-native';
  /** `write`: trees with disks that can be written. `change`: another tree while it is mounted. */
  readonly can: { readonly write: boolean; readonly change: boolean };
  /** undefined where the driver can be used here; else why it cannot, in words. */
  unavailable(): string | undefined;
  /** Resolves when the tree can be read. Throws MOUNT_FAILED, MOUNT_POINT or DRIVER_UNAVAILABLE. */
  mount(tree: Tree, options: MountOptions): Promise<Mounted>;
}
