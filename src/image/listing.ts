/**
 * What a history's folder holds: its points, oldest first, and what could not be believed. Listing needs no lock: a point is
 * there or not. No image and no tree is opened here (history.ts does that), so that a command which only lists is quick; where
 * the catalogue knows a point, its manifest is read only when somebody asks for it.
 */
import { statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { endOfTime, momentOf } from '../moment.js';
import { command } from '../shell.js';
import {
  Catalogue,
  type Catalogued,
  type Found,
  isWorthIt,
  type Summary,
  summaryOf,
  writeCatalogue,
} from './catalogue.js';
import { type FileState, type Files, filesIn, STATE_NUMBERS } from './file-state.js';
import { type Manifest, readManifest } from './manifest.js';
import { isRenamed, readMerges } from './merge-record.js';
import { newestOf } from './verification.js';

/** A point that is complete: its manifest is there and sound. */
export interface HistoryPoint {
  readonly manifest: Manifest;
  readonly time: Date;
  /** The folder's name in a mount; unique within its volume. */
  readonly moment: string;
  /** The name of its files without their endings. */
  readonly stem: string;
}

const MANIFEST = '.json';
const RESULTS = '.verified';
const MERGE = '.merge';

/** Where a point was found: what it asks for the rest of itself. */
interface Place {
  manifestOf(point: ListedPoint): Manifest;
  momentOf(point: ListedPoint): string;
}

export class ListedPoint implements HistoryPoint {
  readonly stem: string;
  readonly time: Date;
  readonly summary: Summary;
  /** Its number in the catalogue; -1 where that has it not. */
  readonly known: number;
  readonly #place: Place;

  constructor(place: Place, stem: string, known: number, summary: Summary) {
    this.#place = place;
    this.stem = stem;
    this.known = known;
    this.summary = summary;
    this.time = new Date(summary.time);
  }

  /** Where the catalogue has it, it is read when it is first asked for; then it throws what reading it throws. */
  get manifest(): Manifest {
    return this.#place.manifestOf(this);
  }

  get moment(): string {
    return this.#place.momentOf(this);
  }
}

export class Listing {
  readonly path: string;
  /** Oldest first. */
  readonly points: readonly ListedPoint[];
  /** Manifests that cannot be believed, a sentence each. */
  readonly troubles: readonly string[];
  /** Points that are being merged into the one above them: they are no points any more, and others stand on them still. */
  protected readonly going: ReadonlyMap<string, HistoryPoint>;
  /** Merges that were under way when the folder was listed, by name. */
  protected readonly merges: string;
  readonly #files: Files;
  readonly #catalogue: Catalogue | undefined;
  /** Manifests that were read. */
  readonly #manifests = new Map<ListedPoint, Manifest>();
  /** Points whose manifest is that of a merge which has not got so far as to replace the file. */
  readonly #ahead = new Set<ListedPoint>();
  readonly #place: Place = {
    manifestOf: point => this.#manifest(point),
    momentOf: point => this.#moment(point),
  };
  #moments: ReadonlyMap<string, string> | undefined;

  /** `catalogue`: manifests may come from it, where it has them. Throws NOT_FOUND or IO. */
  constructor(path: string, { catalogue = true } = {}) {
    this.path = resolve(path);
    const troubles: string[] = [];
    this.#files = filesOf(this.path);
    this.#catalogue = catalogue ? new Catalogue(this.path) : undefined;
    this.merges = mergesAmong(this.#files.numbers.keys());
    const points: ListedPoint[] = [];
    const attempt = (work: () => void) => {
      try {
        work();
      } catch (error) {
        if (!(error instanceof AsofError)) throw error;
        troubles.push(error.message);
      }
    };
    for (const [name, file] of this.#files.numbers) {
      if (name.endsWith(MANIFEST) && !name.startsWith('.'))
        attempt(() => points.push(this.#point(name, file)));
    }
    const gone = new Set<string>();
    attempt(() => this.#merging(points, gone));
    points.sort((a, b) => a.time.getTime() - b.time.getTime() || (a.stem < b.stem ? -1 : 1));
    const isGoing = ({ summary }: ListedPoint) => gone.size > 0 && gone.has(summary.id);
    this.going = new Map(points.filter(isGoing).map(point => [point.summary.id, point]));
    this.points = gone.size === 0 ? points : points.filter(point => !isGoing(point));
    this.troubles = troubles;
  }

  /** Points of one volume, oldest first; `name` may be the volume's id as well. */
  of(name: string): ListedPoint[] {
    return this.points.filter(({ summary }) => summary.volume === name || summary.volumeName === name);
  }

  /**
   * The point that `text` means: an id, the beginning of one, a name of files, a moment, or @TIME: the newest at or before the
   * end of what TIME names. Throws POINT_UNKNOWN.
   */
  find<P extends HistoryPoint>(text: string, among?: readonly P[]): P;
  find(text: string, among: readonly ListedPoint[] = this.points): HistoryPoint {
    const unknown = (what: string) =>
      new AsofError('POINT_UNKNOWN', what, command`asof history ${this.path}`);
    if (text.startsWith('@')) {
      const time = endOfTime(text.slice(1));
      const point = time && among.findLast(one => one.time <= time);
      if (point) return point;
      throw unknown(`no point is at or before ${text.slice(1)}`);
    }
    const isFile = text.endsWith('.qcow2');
    const isMoment = /^\d{4}-/.test(text);
    const hits = among.filter(
      one =>
        one.summary.id === text ||
        one.stem === text ||
        (isFile && one.manifest.image.file === text) ||
        (isMoment && one.moment === text),
    );
    const near =
      hits.length > 0 || text.length < 4 ? hits : among.filter(one => one.summary.id.startsWith(text));
    if (near.length === 1) return near[0]!;
    const what = near.length > 1 ? `${near.length} points are` : 'no point is';
    throw unknown(`${what} called ${JSON.stringify(text)}`);
  }

  /** What was found last when the point was verified; null where nobody has looked since the proof. */
  found(point: ListedPoint): Found | null {
    const known = this.#knownFound(point);
    return known === undefined ? newestOf(this.path, point.stem) : known;
  }

  /** Writes a new catalogue where that makes the next listing faster. The caller has the lock of the folder. */
  keepCatalogue(): void {
    const points = this.points.filter(point => !this.#ahead.has(point));
    const missing = points.filter(point => point.known < 0 || this.#knownFound(point) === undefined);
    if (!isWorthIt(missing.length, points.length)) return;
    const kept: Catalogued[] = [];
    for (const point of points) {
      const { stem, summary } = point;
      const state = this.listedState(stem)!;
      const results = this.#stateOf(`${stem}${RESULTS}`);
      const verified = results && { state: results, found: this.found(point) };
      try {
        const text = this.#text(point) ?? JSON.stringify(this.#manifest(point));
        kept.push({ name: `${stem}${MANIFEST}`, state, summary, text, verified });
      } catch (error) {
        // It has gone since, or it is damaged now.
        if (!(error instanceof AsofError)) throw error;
      }
    }
    writeCatalogue(this.path, kept);
  }

  /** The point's manifest file as it was listed. */
  protected listedState(stem: string): FileState | undefined {
    return this.#stateOf(`${stem}${MANIFEST}`);
  }

  #stateOf(name: string): FileState | undefined {
    const file = this.#files.numbers.get(name);
    if (file === undefined) return undefined;
    return Array.from({ length: STATE_NUMBERS }, (_, i) => this.#files.states[file * STATE_NUMBERS + i]!);
  }

  #point(name: string, file: number): ListedPoint {
    const stem = name.slice(0, -MANIFEST.length);
    const known = this.#catalogue?.find(name, this.#files.states, file) ?? -1;
    if (known >= 0) return new ListedPoint(this.#place, stem, known, this.#catalogue!.summary(known));
    return this.#pointOf(stem, readManifest(join(this.path, name)));
  }

  #pointOf(stem: string, manifest: Manifest): ListedPoint {
    const point = new ListedPoint(this.#place, stem, -1, summaryOf(manifest));
    this.#manifests.set(point, manifest);
    return point;
  }

  #manifest(point: ListedPoint): Manifest {
    let manifest = this.#manifests.get(point);
    if (!manifest) {
      const text = this.#text(point);
      manifest = text
        ? (JSON.parse(text) as Manifest)
        : readManifest(join(this.path, `${point.stem}${MANIFEST}`));
      this.#manifests.set(point, manifest);
    }
    return manifest;
  }

  #text({ known }: ListedPoint): string | undefined {
    return known < 0 ? undefined : this.#catalogue?.text(known);
  }

  /** Undefined where the file of results has to be read. */
  #knownFound({ known, stem }: ListedPoint): Found | null | undefined {
    const file = this.#files.numbers.get(`${stem}${RESULTS}`);
    if (file === undefined) return null;
    return known < 0 ? undefined : this.#catalogue?.found(known, this.#files.states, file);
  }

  #moment({ stem }: ListedPoint): string {
    if (!this.#moments) {
      const moments = new Map<string, string>();
      const counts = new Map<string, number>();
      for (const point of this.points) {
        const moment = momentOf(point.time);
        const key = `${point.summary.volume}/${moment}`;
        const count = (counts.get(key) ?? 0) + 1;
        counts.set(key, count);
        moments.set(point.stem, count === 1 ? moment : `${moment}-${count}`);
      }
      this.#moments = moments;
    }
    return this.#moments.get(stem) ?? '';
  }

  /** What merges that were killed have left: which points are none any more, and which have another manifest already. */
  #merging(points: ListedPoint[], gone: Set<string>): void {
    const names = [...this.#files.numbers.keys()].filter(name => name.endsWith(MERGE));
    for (const record of readMerges(this.path, names)) {
      gone.add(record.base);
      const at = points.findIndex(({ summary }) => summary.id === record.id);
      if (at < 0 || !record.manifest || !isRenamed(this.path, record)) continue;
      const point = this.#pointOf(points[at]!.stem, record.manifest);
      points[at] = point;
      this.#ahead.add(point);
    }
  }
}

/** The merges among names of files, as one text. */
export function mergesAmong(names: Iterable<string>): string {
  return [...names]
    .filter(name => name.endsWith(MERGE))
    .sort()
    .join();
}

/** The files of the folder that a listing needs. Throws NOT_FOUND or IO. */
export function filesOf(path: string): Files {
  try {
    if (statSync(path).isDirectory()) return filesIn(path, [MANIFEST, RESULTS, MERGE]);
  } catch (error) {
    const gone = errnoOf(error) === 'ENOENT';
    const what = gone ? `${path} does not exist` : `${path} cannot be read: ${errnoOf(error)}`;
    throw new AsofError(gone ? 'NOT_FOUND' : 'IO', what, '', { cause: error });
  }
  throw new AsofError('IO', `${path} is no folder`);
}
