/**
 * What a POINT on the command line means: the folder of a history, a file of a point in it, or any image, each with `@` and
 * which of its points behind it; without, the newest.
 */
import { existsSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockSource } from './block/source.js';
import { AsofError } from './errors.js';
import { openHistory } from './histories.js';
import { openChain } from './image/chain.js';
import { History, type HistoryPoint } from './image/history.js';
import type { Run } from './image/manifest.js';
import { findPoint, pointAt, points as pointsOf } from './image/points.js';
import type { Tree } from './image/tree.js';
import { endOfTime } from './moment.js';
import { command } from './shell.js';

export interface NamedPoint {
  /** For people: what was opened, and of when. */
  readonly label: string;
  readonly id: string;
  readonly time: Date;
  readonly source: BlockSource;
  /** What vouches for every byte of it; undefined where it is no point of a history. */
  readonly tree: Tree | undefined;
  /** What could not be read when it was made. */
  readonly bad: readonly Run[];
  /** What it left out of its source, and reads as zeros: in order, apart. Throws where that is not known any more. */
  readonly leftOut: () => readonly Run[];
  /** Real paths of the files that it is made of. */
  readonly files: readonly string[];
  /** The folder of its history. */
  readonly history: string | undefined;
  /** The id and the origin of its volume, where it is a point of a history. */
  readonly volume: { readonly id: string; readonly name: string; readonly source: string } | undefined;
  /**
   * What `asof mount` mounts, and where its disk is in that; and the image of which `asof mount --overlay` makes a writable
   * view of the point, or why there is none.
   */
  readonly mount: {
    readonly path: string;
    readonly disk: string;
    readonly writable: { readonly path: string; readonly format?: string } | { readonly why: string };
  };
  close(): void;
}

export interface PointOptions {
  /** Of a history with more than one volume. */
  readonly volume?: string | undefined;
  readonly search?: readonly string[] | undefined;
  readonly format?: string | undefined;
}

/** Throws NOT_FOUND, IO, POINT_UNKNOWN, and what opening an image throws. */
export function openPoint(text: string, options: PointOptions = {}): NamedPoint {
  const { path, which } = parted(text);
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return inHistory(path, which, options);
  if (which === undefined && isOfHistory(path)) {
    const { history, point } = openHistory(path);
    return named(history, point!);
  }
  return inImage(path, which, options);
}

/** `PATH@WHICH`, unless a file has that whole name; a folder of a path may have an @ in its name. */
function parted(text: string): { readonly path: string; readonly which: string | undefined } {
  if (existsSync(text)) return { path: text, which: undefined };
  for (let at = text.lastIndexOf('@'); at > 0; at = text.lastIndexOf('@', at - 1)) {
    if (existsSync(text.slice(0, at))) return { path: text.slice(0, at), which: text.slice(at + 1) };
  }
  return { path: text, which: undefined };
}

function isOfHistory(path: string): boolean {
  const stem = path.replace(/\.(qcow2|json|tree|map|unused|verified)$/, '');
  return stem !== path && existsSync(`${stem}.json`) && existsSync(`${stem}.tree`);
}

function inHistory(path: string, which: string | undefined, { volume }: PointOptions): NamedPoint {
  const history = new History(path);
  try {
    const among = volume === undefined ? history.points : history.of(volume);
    const time = which === undefined ? undefined : endOfTime(which);
    if (which !== undefined && !time) return named(history, history.find(which, among));
    const names = [...new Set(among.map(({ manifest }) => manifest.volume.name))];
    const list = command`asof history ${path}`;
    if (names.length > 1) {
      const what = `${path} is the history of ${names.length} volumes: ${names.join(', ')}`;
      throw new AsofError('POINT_UNKNOWN', what, '--volume NAME, or the id of a point behind the @');
    }
    const point = time ? among.findLast(one => one.time <= time) : among.at(-1);
    if (point) return named(history, point);
    const what =
      which === undefined ? `${path} holds no point of a history` : `no point is at or before ${which}`;
    throw new AsofError('POINT_UNKNOWN', what, list);
  } catch (error) {
    history.close();
    throw error;
  }
}

function named(history: History, point: HistoryPoint): NamedPoint {
  try {
    const { manifest, moment, stem, time } = point;
    return {
      label: `${stem} of ${manifest.time}`,
      id: manifest.id,
      time,
      source: history.source(point),
      tree: history.tree(point),
      bad: manifest.bad.runs,
      leftOut: () => history.leftOut(point),
      files: history.chain(point).map(one => realpathSync(join(history.path, one.manifest.image.file))),
      history: realpathSync(history.path),
      volume: manifest.volume,
      mount: {
        path: history.path,
        disk: join(manifest.volume.name, moment, 'disk'),
        // The image alone does not say which of its sectors are bad.
        writable:
          manifest.bad.runs.length > 0
            ? { why: 'the point has sectors that could not be read' }
            : { path: join(history.path, manifest.image.file), format: 'qcow2' },
      },
      close: () => history.close(),
    };
  } catch (error) {
    history.close();
    throw error;
  }
}

function inImage(path: string, which: string | undefined, options: PointOptions): NamedPoint {
  const chain = openChain(path, { search: options.search ?? [], format: options.format });
  try {
    const all = pointsOf(chain);
    const time = which === undefined ? undefined : endOfTime(which);
    const point = time ? pointAt(all, time) : which === undefined ? all[0]! : findPoint(all, which);
    return {
      label: `${point.id} of ${point.time.toISOString()}`,
      id: point.id,
      time: point.time,
      source: point.open(),
      tree: undefined,
      bad: [],
      leftOut: () => [],
      files: chain.files.map(file => realpathSync(file.path)),
      history: undefined,
      volume: undefined,
      mount: {
        path,
        disk: join(point.moment, 'disk'),
        writable: point === all[0] ? { path } : { why: 'it is not the newest point of its image' },
      },
      close: () => chain.close(),
    };
  } catch (error) {
    chain.close();
    throw error;
  }
}
