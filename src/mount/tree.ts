/**
 * The tree of names that a mount shows, made from what the caller knows; drivers number it (numbers.ts) and serve it.
 * A tree never changes, except for what `Text` says when asked and what `find` resolves; a mount may be given another
 * one (`Mounted.update`).
 */
import type { NativeReadable } from '../native.js';

interface Named {
  readonly name: string;
  /** Last modification: a point's own time. */
  readonly modified: Date;
}

export interface Directory extends Named {
  readonly kind: 'directory';
  readonly entries: readonly Entry[];
  /** Resolves a name that is not listed (`@<time>`) to an entry of this directory; undefined where there is none. */
  readonly find?: ((name: string) => Entry | undefined) | undefined;
  /**
   * Further entries, which cost too much to be known before somebody looks: asked at the first listing, and at a name that
   * is not among `entries`. It never rejects, and gives the same entries however often it is asked. A later tree has
   * those that were given among its `entries`.
   */
  readonly more?: (() => Promise<readonly Entry[]>) | undefined;
}

/** What a mount needs of a disk; block/disk.ts has one, and so has each disk of a volume. */
export interface ShownDisk {
  /** Bytes. */
  readonly size: number;
  readonly native: NativeReadable;
  /** Bytes that are no zero runs; undefined where they have not been counted. */
  readonly allocated?: number | undefined;
  /** The disk of which it is a part: what goes wrong with that goes wrong with it. */
  readonly of?: ShownDisk;
}

export interface DiskFile extends Named {
  readonly kind: 'disk';
  readonly disk: ShownDisk;
  /** The live device of a volume: its file can be written, by the user who mounts alone. */
  readonly writable?: boolean;
}

/** A small file; `text` is asked at each open and stat, so that it may tell news (defects.json). */
export interface TextFile extends Named {
  readonly kind: 'text';
  readonly text: () => string | Promise<string>;
}

export type Entry = Directory | DiskFile | TextFile;
export type Tree = Directory;
