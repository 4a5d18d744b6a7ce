/**
 * A history as it lies in a folder: its points, how they stand on each other, and the disk of each. Listing needs no lock: a
 * point is there or not. Who opens images or trees shares a lock of the folder itself (flock(2)), so that no point is merged
 * into another while it is read; backups, which only add, do not mind it.
 */
import { closeSync, constants, openSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Extent } from '../block/extent.js';
import { ImageFile } from '../block/file.js';
import { type BlockSource, checkRange, type Layer } from '../block/source.js';
import { stack } from '../block/stack.js';
import { AsofError, errnoOf } from '../errors.js';
import { momentOf, parseTime } from '../moment.js';
import { loadAddon } from '../native.js';
import { command } from '../shell.js';
import {
  type Catalogued,
  type FileState,
  isWorthIt,
  readCatalogue,
  sameFile,
  stateOf,
  writeCatalogue,
} from './catalogue.js';
import type { Image } from './format.js';
import { type Manifest, type Run, readManifest } from './manifest.js';
import { isRenamed, readMerges } from './merge-record.js';
import { qcow2 } from './qcow2.js';
import { Tree, TreeFile } from './tree.js';

/** Images between a point and the full one below it. */
const LONGEST_CHAIN = 1024;

/** Files that a walk over all points leaves open. */
const MANY_FILES = 512;

/** A point that is complete: its manifest is there and sound. */
export interface HistoryPoint {
  readonly manifest: Manifest;
  readonly time: Date;
  /** The folder's name in a mount; unique within its volume. */
  readonly moment: string;
  /** The name of its files without their endings. */
  readonly stem: string;
}

export class History {
  readonly path: string;
  /** Oldest first. */
  readonly points: readonly HistoryPoint[];
  /** Manifests that cannot be believed, a sentence each. */
  readonly troubles: readonly string[];
  readonly #byId = new Map<string, HistoryPoint>();
  readonly #images = new Map<string, Image>();
  readonly #trees = new Map<string, TreeFile>();
  /** Points that are being merged into the one above them: they are no points any more, and others stand on them still. */
  readonly #going = new Set<string>();
  /** Merges that were under way when the folder was listed, by name. */
  readonly #merges: string;
  /** The manifest's file as it was listed, by id. */
  readonly #listed = new Map<string, FileState>();
  readonly #manifests: Catalogued[] = [];
  /** Manifests that the catalogue had not. */
  #read = 0;
  readonly #exclusive: boolean;
  #lock = -1;
  #closed = false;

  /**
   * `exclusive`: the caller has the folder's lock for himself. `catalogue`: manifests may come from it, where it has them.
   * Throws NOT_FOUND or IO.
   */
  constructor(path: string, { exclusive = false, catalogue = true } = {}) {
    this.path = resolve(path);
    this.#exclusive = exclusive;
    const troubles: string[] = [];
    const all: Omit<HistoryPoint, 'moment'>[] = [];
    const attempt = (work: () => void) => {
      try {
        work();
      } catch (error) {
        if (!(error instanceof AsofError)) throw error;
        troubles.push(error.message);
      }
    };
    const names = namesIn(this.path);
    this.#merges = mergesIn(names);
    const known = catalogue ? readCatalogue(this.path) : undefined;
    for (const name of names) {
      if (!name.endsWith('.json') || name.startsWith('.')) continue;
      attempt(() => {
        const file = join(this.path, name);
        const stat = statSync(file, { throwIfNoEntry: false });
        const state = stat && stateOf(stat);
        const entry = known?.get(name);
        const isKnown = entry !== undefined && state !== undefined && sameFile(entry.state, state);
        const manifest = isKnown ? entry.manifest : readManifest(file);
        if (!isKnown) this.#read++;
        if (state) {
          this.#listed.set(manifest.id, state);
          this.#manifests.push({ name, state, manifest });
        }
        all.push({ manifest, time: new Date(manifest.time), stem: name.slice(0, -'.json'.length) });
      });
    }
    attempt(() => this.#merging(names, all));
    const found = all.filter(({ manifest }) => !this.#going.has(manifest.id));
    found.sort((a, b) => a.time.getTime() - b.time.getTime() || (a.stem < b.stem ? -1 : 1));
    const moments = new Map<string, number>();
    this.points = found.map(point => {
      const moment = momentOf(point.time);
      const key = `${point.manifest.volume.id}/${moment}`;
      const count = (moments.get(key) ?? 0) + 1;
      moments.set(key, count);
      return { ...point, moment: count === 1 ? moment : `${moment}-${count}` };
    });
    for (const point of all) {
      if (this.#going.has(point.manifest.id)) this.#byId.set(point.manifest.id, { ...point, moment: '' });
    }
    for (const point of this.points) this.#byId.set(point.manifest.id, point);
    this.troubles = troubles;
  }

  /** Points of one volume, oldest first; `name` may be the volume's id as well. */
  of(name: string): HistoryPoint[] {
    return this.points.filter(({ manifest: { volume } }) => volume.id === name || volume.name === name);
  }

  /** The point that `text` means: an id, the beginning of one, a name of files, a moment, or @TIME. Throws POINT_UNKNOWN. */
  find(text: string, among: readonly HistoryPoint[] = this.points): HistoryPoint {
    if (text.startsWith('@')) {
      const time = parseTime(text.slice(1));
      const point = time && among.findLast(one => one.time <= time);
      if (point) return point;
      throw new AsofError(
        'POINT_UNKNOWN',
        `no point is at or before ${text.slice(1)}`,
        command`asof history ${this.path}`,
      );
    }
    const hits = among.filter(
      one =>
        one.manifest.id === text ||
        one.stem === text ||
        one.manifest.image.file === text ||
        one.moment === text,
    );
    const near =
      hits.length > 0 || text.length < 4 ? hits : among.filter(one => one.manifest.id.startsWith(text));
    if (near.length === 1) return near[0]!;
    const what = near.length > 1 ? `${near.length} points are` : 'no point is';
    throw new AsofError(
      'POINT_UNKNOWN',
      `${what} called ${JSON.stringify(text)}`,
      command`asof history ${this.path}`,
    );
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
      const grows = this.#going.has(id) && file.size >= image.bytes;
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
      if (mergesIn(namesIn(this.path)) !== this.#merges) throw busy('points were merged since it was listed');
    }
    const listed = point && this.#listed.get(point.manifest.id);
    if (!listed || this.#exclusive) return;
    const now = statSync(join(this.path, `${point.stem}.json`), { throwIfNoEntry: false });
    if (now && sameFile(stateOf(now), listed)) return;
    if (!this.#going.has(point.manifest.id)) throw busy(`${point.stem} is not what was listed any more`);
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

  /** Writes a new catalogue where that makes the next listing faster. The caller has the lock of the folder. */
  keepCatalogue(): void {
    if (isWorthIt(this.#read, this.#manifests.length)) writeCatalogue(this.path, this.#manifests);
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

  /** What merges that were killed have left: which points are none any more, and which have another manifest already. */
  #merging(names: readonly string[], all: Omit<HistoryPoint, 'moment'>[]): void {
    for (const record of readMerges(this.path, names)) {
      this.#going.add(record.base);
      const at = all.findIndex(({ manifest }) => manifest.id === record.id);
      if (at >= 0 && record.manifest && isRenamed(this.path, record)) {
        all[at] = { ...all[at]!, manifest: record.manifest };
      }
    }
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

function mergesIn(names: readonly string[]): string {
  return names
    .filter(name => name.endsWith('.merge'))
    .sort()
    .join();
}

/** A file system without locks of folders has no merges either. */
function shared(fd: number): boolean {
  try {
    return loadAddon().lockShared(fd);
  } catch {
    return true;
  }
}

function namesIn(path: string): string[] {
  try {
    if (statSync(path).isDirectory()) return readdirSync(path);
  } catch (error) {
    const gone = errnoOf(error) === 'ENOENT';
    const what = gone ? `${path} does not exist` : `${path} cannot be read: ${errnoOf(error)}`;
    throw new AsofError(gone ? 'NOT_FOUND' : 'IO', what, '', { cause: error });
  }
  throw new AsofError('IO', `${path} is no folder`);
}

const BAD = 'the source could not be read here when the backup was made';

/** `source`, of which `runs` are known to be bad: in order, apart, within its size. */
export function withBad(source: BlockSource, runs: readonly Run[]): BlockSource {
  if (runs.length === 0) return source;
  return {
    ...source,
    *extents(offset, length): Generator<Extent, void, undefined> {
      checkRange(source.size, offset, length);
      const end = offset + length;
      for (const [start, size] of runs) {
        if (start + size <= offset) continue;
        if (start >= end) break;
        if (start > offset) yield* source.extents(offset, start - offset);
        const from = Math.max(start, offset);
        const stop = Math.min(start + size, end);
        yield { kind: 'bad', length: stop - from, why: BAD };
        offset = stop;
      }
      if (offset < end) yield* source.extents(offset, end - offset);
    },
  };
}
