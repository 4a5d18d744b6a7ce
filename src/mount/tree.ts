/**
 * The tree of names that a mount shows. Made once, from what the caller knows; drivers number it and serve it.
 * It never changes while it is mounted, except for what `Text` says when asked and what `find` resolves.
 */
import type { Disk } from '../block/disk.js';

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
}

export interface DiskFile extends Named {
  readonly kind: 'disk';
  readonly disk: Disk;
}

/** A small file; `text` is asked at each open, so that it may tell news (defects.json). */
export interface TextFile extends Named {
  readonly kind: 'text';
  readonly text: () => string;
}

export type Entry = Directory | DiskFile | TextFile;
export type Tree = Directory;

/** An entry with its number. The root is 1, as FUSE wants it (linux/fuse.h, FUSE_ROOT_ID); numbers are stable. */
export interface NumberedEntry {
  readonly id: number;
  readonly parent: number;
  readonly entry: Entry;
}

/** Every entry of `tree`, parents before their children. */
export function numbered(tree: Tree): NumberedEntry[] {
  const all: NumberedEntry[] = [{ id: 1, parent: 1, entry: tree }];
  for (const { id, entry } of all) {
    if (entry.kind !== 'directory') continue;
    for (const child of entry.entries) all.push({ id: all.length + 1, parent: id, entry: child });
  }
  return all;
}
