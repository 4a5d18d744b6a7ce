/**
 * Numbers for the entries of a tree: the root is 1, as FUSE wants it (linux/fuse.h, FUSE_ROOT_ID); an entry keeps its
 * number for as long as it is the same, and no number is given twice.
 *
 * Two trees are compared by their names. A directory or a text stays the same one under its name; a disk does where it
 * is the same disk. So a caller may make each tree anew from what it knows now.
 */
import type { Entry, ShownDisk, Tree } from './tree.js';

export interface NumberedEntry {
  readonly id: number;
  readonly parent: number;
  readonly entry: Entry;
}

/** What is different in another tree. */
export interface Difference {
  /** Numbers of what is gone, each with everything below it. */
  readonly gone: readonly number[];
  /** What is new, parents before their children, and what has another time. */
  readonly fresh: readonly NumberedEntry[];
  /** From now on the numbers are those of the other tree. */
  accept(): void;
}

interface Numbered extends NumberedEntry {
  readonly children: Map<string, Numbered>;
}

export class Numbers {
  /** The first tree's entries; the number of each is one more than its index. */
  readonly first: readonly NumberedEntry[];
  #root: Numbered;
  #byId = new Map<number, Numbered>();
  #byEntry = new Map<Entry, number>();
  #last = 0;

  constructor(tree: Tree) {
    const first: NumberedEntry[] = [];
    this.#root = this.#number(tree, 1, first);
    this.first = first;
    this.#index();
  }

  entry(id: number): Entry | undefined {
    return this.#byId.get(id)?.entry;
  }

  /** undefined for an entry that is not of the tree. */
  idOf(entry: Entry): number | undefined {
    return this.#byEntry.get(entry);
  }

  /** The numbers of all files that show `disk`, or a part of it. */
  idsOf(disk: ShownDisk): number[] {
    return [...this.#byId.values()]
      .filter(({ entry }) => entry.kind === 'disk' && (entry.disk === disk || entry.disk.of === disk))
      .map(({ id }) => id);
  }

  compare(tree: Tree): Difference {
    const gone: number[] = [];
    const fresh: NumberedEntry[] = [];
    const root = this.#compare(this.#root, tree, gone, fresh);
    return {
      gone,
      fresh,
      accept: () => {
        this.#root = root;
        this.#index();
      },
    };
  }

  /** What is new where the directory `id` has `entries` besides; from `accept` on the numbers are those. */
  grow(id: number, entries: readonly Entry[]): Pick<Difference, 'fresh' | 'accept'> {
    const fresh: NumberedEntry[] = [];
    const directory = this.#byId.get(id);
    const made = new Map<string, Numbered>();
    for (const entry of directory ? entries : []) {
      if (!directory!.children.has(entry.name)) made.set(entry.name, this.#number(entry, id, fresh));
    }
    return {
      fresh,
      accept: () => {
        for (const [name, numbered] of made) directory!.children.set(name, numbered);
        this.#index();
      },
    };
  }

  #number(entry: Entry, parent: number, fresh: NumberedEntry[]): Numbered {
    const id = ++this.#last;
    const numbered = { id, parent, entry, children: new Map<string, Numbered>() };
    fresh.push(numbered);
    for (const child of entriesOf(entry)) {
      numbered.children.set(child.name, this.#number(child, id, fresh));
    }
    return numbered;
  }

  #compare(old: Numbered, entry: Entry, gone: number[], fresh: NumberedEntry[]): Numbered {
    const children = new Map<string, Numbered>();
    const numbered = { id: old.id, parent: old.parent, entry, children };
    if (old.entry.modified.getTime() !== entry.modified.getTime()) fresh.push(numbered);
    for (const child of entriesOf(entry)) {
      const before = old.children.get(child.name);
      const stays = before && !children.has(child.name) && isSame(before.entry, child);
      const now = stays ? this.#compare(before, child, gone, fresh) : this.#number(child, old.id, fresh);
      children.set(child.name, now);
    }
    for (const [name, { id }] of old.children) if (children.get(name)?.id !== id) gone.push(id);
    return numbered;
  }

  #index(): void {
    this.#byId.clear();
    this.#byEntry.clear();
    const queue = [this.#root];
    for (const numbered of queue) {
      this.#byId.set(numbered.id, numbered);
      this.#byEntry.set(numbered.entry, numbered.id);
      queue.push(...numbered.children.values());
    }
  }
}

function entriesOf(entry: Entry): readonly Entry[] {
  return entry.kind === 'directory' ? entry.entries : [];
}

function isSame(a: Entry, b: Entry): boolean {
  if (a.kind !== 'disk' || b.kind !== 'disk') return a.kind === b.kind;
  return a.disk === b.disk && (a.writable ?? false) === (b.writable ?? false);
}
