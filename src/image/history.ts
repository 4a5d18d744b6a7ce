/**
 * A history as it lies in a folder: its points (listing.ts), how they stand on each other, and the disk of each. Who opens
 * images or trees shares a lock of the folder itself (flock(2)), so that no point is merged into another while it is read;
 * backups, which only add, do not mind it.
 */
import { closeSync, constants, openSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ImageFile } from '../block/file.js';
import { type BlockSource, checkRange, type Layer } from '../block/source.js';
import { stack } from '../block/stack.js';
import { AsofError } from '../errors.js';
import { loadAddon } from '../native.js';
import { command } from '../shell.js';
import { withBad } from './bad-runs.js';
import { sameFile, stateOf } from './file-state.js';
import type { Image } from './format.js';
import { excludedRuns, readRuns } from './left-out.js';
import { filesOf, type HistoryPoint, type ListedPoint, Listing, mergesAmong } from './listing.js';
import { joinRuns, type Run } from './manifest.js';
import { qcow2 } from './qcow2.js';
import { Tree, TreeFile } from './tree.js';

/** Images between a point and the full one below it. */
const LONGEST_CHAIN = 1024;

/** Files that a walk over all points leaves open. */
const MANY_FILES = 512;

export type { HistoryPoint, ListedPoint };

export class History extends Listing {
  /** With those that are being merged into another: others stand on them still. */
  readonly #byId = new Map<string, HistoryPoint>();
  readonly #images = new Map<string, Image>();
  readonly #trees = new Map<string, TreeFile>();
  readonly #exclusive: boolean;
  #lock = -1;
  #closed = false;

  /**
   * `exclusive`: the caller has the folder's lock for himself. `catalogue`: manifests may come from it, where it has them.
   * Throws NOT_FOUND or IO.
   */
  constructor(path: string, { exclusive = false, catalogue = true } = {}) {
    super(path, { catalogue });
    this.#exclusive = exclusive;
    for (const [id, point] of this.going) this.#byId.set(id, point);
    for (const point of this.points) this.#byId.set(point.summary.id, point);
  }

  /** The point, what it stands on, and so on down to a full one. Throws HISTORY_DAMAGED where one is not there. */
  chain(point: HistoryPoint): HistoryPoint[] {
    const chain = [point];
    for (let { base } = point.manifest; base; base = chain.at(-1)!.manifest.base) {
      const below = this.#byId.get(base.id);
      const damaged = (what: string) =>
        new AsofError(
          'HISTORY_DAMAGED',
          `${point.stem} cannot be read: ${what}`,
          command`asof verify ${this.path}`,
        );
      if (!below) throw damaged(`its base ${base.id} is not in ${this.path}`);
      if (below.manifest.root !== base.root)
        throw damaged(`${below.stem} is not the base that it was written for`);
      if (chain.length >= LONGEST_CHAIN || chain.includes(below)) throw damaged('its chain has no end');
      chain.push(below);
    }
    return chain;
  }

  /** The hash tree of a point; its files stay open with the history. Throws HISTORY_DAMAGED, NOT_FOUND or IO. */
  tree(point: HistoryPoint): Tree {
    const tree = new Tree(this.chain(point).map(one => this.#treeFile(one)));
    if (tree.root === point.manifest.root && tree.size === point.manifest.disk.size) return tree;
    throw new AsofError('HISTORY_DAMAGED', `the hash tree of ${point.stem} is not that of its manifest`);
  }

  /** What the image of a point itself holds. Throws HISTORY_DAMAGED where it is not that of the manifest. */
  layer(point: HistoryPoint): Layer {
    return this.image(point).layer;
  }

  /**
   * What reads as zeros whatever the source had there, in order, apart: unused space and swap. Throws HISTORY_DAMAGED,
   * NOT_FOUND or IO.
   */
  leftOut({ manifest, stem }: HistoryPoint): readonly Run[] {
    const { unused, disk } = manifest;
    if (!unused) {
      if (manifest.allocation !== 'map') return excludedRuns(manifest);
      throw new AsofError('HISTORY_DAMAGED', `${stem} does not say what it left out`);
    }
    const runs = readRuns(join(this.path, unused.file), disk.size, unused.sha256);
    return joinRuns([...runs, ...excludedRuns(manifest)]);
  }

  image(point: HistoryPoint): Image {
    const { id, image, base, disk } = point.manifest;
    const known = this.#images.get(id);
    if (known) return known;
    this.hold(point);
    const file = ImageFile.open(join(this.path, image.file));
    try {
      const opened = qcow2.open(file, {
        companion: name => {
          throw new AsofError('HISTORY_DAMAGED', `${file.path} names a data file, ${JSON.stringify(name)}`);
        },
      });
      const below = base ? this.#byId.get(base.id)?.manifest.image.file : undefined;
      const wrong = (what: string) => new AsofError('HISTORY_DAMAGED', `${file.path} ${what}`);
      const grows = this.going.has(id) && file.size >= image.bytes;
      if (file.size !== image.bytes && !grows)
        throw wrong(`has ${file.size} bytes, its manifest says ${image.bytes}`);
      if (opened.size !== Math.ceil(disk.size / 512) * 512) throw wrong('is of a disk of another size');
      if (opened.parent?.name !== below)
        throw wrong(`stands on ${opened.parent?.name}, its manifest says ${below}`);
      this.#images.set(id, opened);
      return opened;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * The disk of a point. Nothing is opened before the first question; what cannot be opened then is one bad run.
   * Closing it closes no file: the history owns them.
   */
  source(point: HistoryPoint): BlockSource {
    const { disk, bad } = point.manifest;
    let opened: BlockSource | undefined;
    const open = (): BlockSource => {
      opened ??= withBad(
        stack(
          this.chain(point).map(one => this.layer(one)),
          512,
        ),
        bad.runs,
      );
      return opened;
    };
    return {
      size: disk.size,
      sectorSize: disk.sectorSize,
      extents(offset, length) {
        checkRange(disk.size, offset, length);
        try {
          return open().extents(offset, length);
        } catch (error) {
          if (!(error instanceof AsofError)) throw error;
          return length > 0 ? [{ kind: 'bad', length, why: error.message }] : [];
        }
      },
      close() {},
    };
  }

  /**
   * From here to `close`, the files of the history stay as they were listed, and so does `point`. Throws HISTORY_BUSY where
   * points are being merged, or were since.
   */
  hold(point?: HistoryPoint): void {
    if (this.#closed) throw new Error('the history is closed');
    const busy = (what: string) => new AsofError('HISTORY_BUSY', `${this.path}: ${what}`, 'try it again');
    if (this.#lock < 0 && !this.#exclusive) {
      this.#lock = openSync(this.path, constants.O_RDONLY | constants.O_DIRECTORY);
      if (!shared(this.#lock)) throw busy('points are being merged, and what is read would change');
      if (mergesAmong(filesOf(this.path).numbers.keys()) !== this.merges)
        throw busy('points were merged since it was listed');
    }
    const before = point && this.listedState(point.stem);
    if (!before || this.#exclusive) return;
    const now = statSync(join(this.path, `${point.stem}.json`), { throwIfNoEntry: false });
    if (now && sameFile(before, 0, stateOf(now), 0)) return;
    if (!this.going.has(point.manifest.id)) throw busy(`${point.stem} is not what was listed any more`);
  }

  /**
   * Gives files back where many are open, for who goes from point to point; whether it did. No disk or layer of the history
   * may be in use.
   */
  rest(): boolean {
    if (this.#images.size + this.#trees.size < MANY_FILES) return false;
    this.close();
    this.#closed = false;
    return true;
  }

  /** A second call does nothing. */
  close(): void {
    this.#closed = true;
    if (this.#lock >= 0) closeSync(this.#lock);
    this.#lock = -1;
    for (const image of this.#images.values()) image.file.close();
    for (const tree of this.#trees.values()) tree.close();
    this.#images.clear();
    this.#trees.clear();
  }

  #treeFile(point: HistoryPoint): TreeFile {
    const { id, tree } = point.manifest;
    let file = this.#trees.get(id);
    if (!file) {
      this.hold(point);
      file = new TreeFile(join(this.path, tree.file));
      this.#trees.set(id, file);
    }
    return file;
  }
}

/** A file system without locks of folders has no merges either. */
function shared(fd: number): boolean {
  try {
    return loadAddon().lockShared(fd);
  } catch {
    return true;
  }
}
