/**
 * Composition of histories: what the commands backup, history, verify and mount ask for. It knows the images and what a
 * mount shows; where a source comes from the daemon, src/cli/backup-volume.ts asks for it.
 */
import { closeSync, constants, existsSync, fstatSync, openSync, realpathSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, extname } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { Disk, type OnDamage } from './block/disk.js';
import type { BlockSource, SectorSize } from './block/source.js';
import { blockDevice } from './cow/block-device.js';
import { AsofError, errnoOf } from './errors.js';
import { type Allocation, allocationOf, type Wishes } from './image/allocation.js';
import {
  type BackupOptions,
  type BackupProgress,
  type BackupResult,
  type BackupSource,
  backup as runBackup,
} from './image/backup.js';
import { openChain } from './image/chain.js';
import { type Consolidated, consolidate as runConsolidation } from './image/consolidate.js';
import { type Action, type ConsolidationPlan, planConsolidation } from './image/consolidate-plan.js';
import { type Failure, failureOf, isNoted } from './image/failures.js';
import { History, type HistoryPoint } from './image/history.js';
import { HistoryFolder } from './image/history-folder.js';
import { excludedRuns, leavingOut } from './image/left-out.js';
import { IMAGE_KINDS, type ImageKind, joinRuns, type Manifest } from './image/manifest.js';
import { points as pointsOf } from './image/points.js';
import { CLUSTER } from './image/qcow2-writer.js';
import { KEEP_RULES, type Keep, type KeepRule, keptBy } from './image/retention.js';
import { keepResult, type Verified } from './image/verification.js';
import { verifyPoint } from './image/verify.js';
import { folderOf, isFolder, Listing, stateOfPoint } from './listings.js';
import { endOfTime } from './moment.js';
import { holderOfFiles } from './mount/file-holders.js';
import type { Directory, Entry, Tree } from './mount/tree.js';
import { Engine, loadAddon } from './native.js';
import { PartitionTree } from './partition-tree.js';
import { partitioned } from './restore.js';
import { command } from './shell.js';

export type {
  Action,
  BackupOptions,
  BackupProgress,
  BackupResult,
  BackupSource,
  Consolidated,
  ConsolidationPlan,
  Failure,
  HistoryPoint,
  ImageKind,
  Keep,
  KeepRule,
  Manifest,
  Verified,
};
export { History, IMAGE_KINDS, isFolder, KEEP_RULES };

const CACHE = 64 * 2 ** 20;
const MAP_BYTES = 32 * 2 ** 20;

/** Milliseconds between two looks at a history that somebody writes to. */
const BUSY_STEP_MS = 500;

const newEngine = () =>
  new Engine({ cacheBytes: CACHE, mapBytes: MAP_BYTES, threads: availableParallelism() });

/** What a source is beside its bytes, where it is no plain file: a snapshot of a volume. */
export type SourceFacts = Partial<
  Pick<BackupSource, 'volume' | 'time' | 'consistency' | 'snapshot' | 'allocation' | 'tracker' | 'changed'>
>;

/**
 * Backs up the newest point of the image, file or device at `path` into `folder`.
 * Throws what opening an image throws, and what src/image/backup.ts throws.
 */
export async function backup(
  path: string,
  folder: string,
  options: BackupOptions,
  facts: SourceFacts & {
    readonly format?: string | undefined;
    /** Of the volume, where the file that is read does not tell it; a block device does. */
    readonly sectorSize?: SectorSize | undefined;
    /** What its file systems do not use is taken as well; else it is left out where that is known. */
    readonly allSectors?: boolean | undefined;
    readonly excludeSwap?: boolean | undefined;
  } = {},
): Promise<BackupResult> {
  const chain = openChain(path, { format: facts.format });
  const engine = newEngine();
  let disk: Disk | undefined;
  try {
    const [point] = pointsOf(chain);
    const opened = point!.open();
    const sectorSize = facts.sectorSize ?? sectorSizeOf(path) ?? opened.sectorSize;
    const source: BlockSource = { ...opened, sectorSize };
    if (source.size === 0) throw new AsofError('IO', `${path} has no bytes`);
    const wishes = { map: !facts.allSectors, swap: facts.excludeSwap ?? false };
    const before = chain.files.map(({ fd }) => stateOf(fd));
    const left = await allocation(engine, source, path, chain.files.length, wishes);
    const runs = joinRuns([...(left.unused ?? []), ...excludedRuns(left)]);
    disk = new Disk(engine, leavingOut(source, runs));
    // Read ahead would be asked of what has been given back, and fail with what is wanted.
    if (options.urgent) for (const { fd } of chain.files) loadAddon().readExactly(fd);
    const real = realpathSync(path);
    const isFile = statSync(real).isFile();
    const changed = () => {
      const which = chain.files.find(({ fd }, i) => stateOf(fd) !== before[i]);
      return which && `${which.path} was written to while it was read: that is no one moment`;
    };
    return await runBackup(
      folder,
      {
        disk,
        volume: { id: `path:${real}`, name: basename(real, extname(real)), source: real },
        time: new Date(),
        consistency: isFile ? 'quiet' : 'unknown',
        snapshot: null,
        allocation: isFile ? 'holes' : 'all',
        changed: isFile ? changed : undefined,
        ...facts,
        ...(left.unused ? { allocation: 'map' as const } : {}),
        allocationWhy: left.why,
        unused: left.unused,
        ...(wishes.swap ? { excluded: left.excluded, excludedNot: left.excludedNot } : {}),
      },
      options,
    );
  } finally {
    disk?.close();
    engine.close();
    chain.close();
  }
}

/** Waits for whoever writes to the history at `folder`, `ms` at most; then it is for a backup to say that somebody does. */
export async function waitForHistory(folder: string, ms: number, signal: AbortSignal): Promise<void> {
  for (const end = performance.now() + ms; performance.now() < end && !signal.aborted; ) {
    try {
      new HistoryFolder(folder).close();
      return;
    } catch (error) {
      if (!(error instanceof AsofError && error.code === 'HISTORY_BUSY')) return;
    }
    await setTimeout(BUSY_STEP_MS, undefined, { signal }).catch(() => {});
  }
}

/**
 * Writes down, in the history at `folder`, why a backup of `name` came to nothing; not where that was done already, where the
 * request made no sense, or where there is no history yet. Throws nothing: the error itself is what counts.
 */
export function noteFailure(folder: string, name: string, began: Date, error: unknown): void {
  if (isNoted(error) || !existsSync(folder)) return;
  if (error instanceof AsofError && (error.code === 'USAGE' || error.code === 'HISTORY_BUSY')) return;
  try {
    const place = new HistoryFolder(folder);
    try {
      place.note(failureOf(error, { id: null, name }, began));
    } finally {
      place.close();
    }
  } catch {
    // Somebody else writes there, or nobody can.
  }
}

/** The programs that know file systems read files and devices, so that the path has to be that of the bytes themselves. */
async function allocation(
  engine: Engine,
  source: BlockSource,
  path: string,
  files: number,
  wishes: Wishes,
): Promise<Allocation> {
  const none = (why: string) => ({ unused: undefined, why, excluded: [], excludedNot: [why] });
  if (!wishes.map && !wishes.swap) return { ...none('all sectors were asked for'), excludedNot: [] };
  const stat = statSync(path);
  if (files !== 1 || (stat.isFile() && stat.size !== source.size)) {
    return none('all sectors: no map can be had of a file system within an image');
  }
  const users = stat.isBlockDevice() ? inUse(path) : undefined;
  if (users !== undefined) return none(`all sectors: ${users}`);
  const disk = new Disk(engine, { ...source, close() {} });
  try {
    return await allocationOf(partitioned(disk), path, wishes);
  } finally {
    disk.close();
  }
}

/** Of a device that is written meanwhile a map is out of date before the data are read: only a snapshot is one moment. */
function inUse(path: string): string | undefined {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_EXCL));
    return undefined;
  } catch (error) {
    return `the device is in use (${errnoOf(error)}), and no map of it would be of one moment with the data`;
  }
}

/** Of a block device: its logical sectors, by which a partition table counts. */
function sectorSizeOf(path: string): SectorSize | undefined {
  const stat = statSync(path, { bigint: true });
  return stat.isBlockDevice() ? blockDevice(stat.rdev).sectorSize : undefined;
}

/** Size and times of writing; those of a block device say nothing. */
function stateOf(fd: number): string {
  const { size, mtimeNs, ctimeNs } = fstatSync(fd, { bigint: true });
  return `${size} ${mtimeNs} ${ctimeNs}`;
}

export interface VerifyRequest {
  readonly deep: boolean;
  readonly sample: readonly [number, number] | null;
  /** The result is kept beside the point. */
  readonly keep: boolean;
  readonly progress?: (point: HistoryPoint, bytes: number) => void;
}

export interface VerifiedPoint {
  readonly point: HistoryPoint;
  readonly result: Verified;
  /** Why the result could not be kept beside the point (a folder that is not to be written); undefined where it was. */
  readonly notKept: string | undefined;
}

/** Verifies points, oldest first; a result each. */
export async function* verify(
  history: History,
  points: readonly HistoryPoint[],
  request: VerifyRequest,
): AsyncGenerator<VerifiedPoint, void, undefined> {
  const threads = availableParallelism();
  const imager = new (loadAddon().Imager)(threads, CLUSTER);
  let engine = newEngine();
  try {
    for (const point of points) {
      const result = await verifyPoint(history, point, {
        engine,
        imager,
        parallel: threads + 2,
        deep: request.deep,
        sample: request.sample,
        progress: bytes => request.progress?.(point, bytes),
      });
      yield { point, result, notKept: request.keep ? keep(history, point, result) : undefined };
      if (history.rest()) {
        // The engine has descriptors of its own.
        engine.close();
        engine = newEngine();
      }
    }
    if (request.keep) renewCatalogue(history.path);
  } finally {
    imager.close();
    engine.close();
  }
}

/** What was found is listed as quickly as the points are. Where another run writes to the folder, that does it. */
function renewCatalogue(folder: string): void {
  let place: HistoryFolder;
  try {
    place = new HistoryFolder(folder);
  } catch (error) {
    if (error instanceof AsofError) return;
    throw error;
  }
  try {
    new Listing(folder).keepCatalogue();
  } finally {
    place.close();
  }
}

function keep(history: History, point: HistoryPoint, result: Verified): string | undefined {
  try {
    keepResult(history, point, result);
    return undefined;
  } catch (error) {
    if (error instanceof AsofError) return error.message;
    throw error;
  }
}

/** Why points stay: the rules that keep each, by its id. Points of each volume are counted for themselves. */
export function keptPoints(history: History, keep: Keep): Map<string, readonly KeepRule[]> {
  const kept = new Map<string, readonly KeepRule[]>();
  for (const volume of new Set(history.points.map(({ manifest }) => manifest.volume.id))) {
    const points = history.points.filter(({ manifest }) => manifest.volume.id === volume);
    const rules = keptBy(
      points.map(({ time }) => time),
      keep,
    );
    points.forEach((point, i) => {
      if (rules[i]!.length > 0) kept.set(point.manifest.id, rules[i]!);
    });
  }
  return kept;
}

/** What is to leave: one point, or what no rule keeps. */
export type Leaving =
  | { readonly point: string }
  | {
      readonly keep: Keep;
      /** Points of these volumes alone, by id. */
      readonly volumes?: readonly string[];
    };

function leaving(history: History, what: Leaving): Set<string> {
  if ('point' in what) return new Set([history.find(what.point).manifest.id]);
  const kept = keptPoints(history, what.keep);
  const meant = history.points.filter(({ manifest }) => what.volumes?.includes(manifest.volume.id) ?? true);
  return new Set(meant.map(({ manifest }) => manifest.id).filter(id => !kept.has(id)));
}

/** What `consolidate` would do. */
export function planOf(history: History, what: Leaving): ConsolidationPlan {
  return planConsolidation(history.points, leaving(history, what));
}

/** Throws what src/image/consolidate.ts throws, and POINT_UNKNOWN. */
export async function consolidate(
  folder: string,
  what: Leaving,
  done?: (action: Action) => void,
): Promise<Consolidated> {
  return runConsolidation(folder, {
    choose: history => leaving(history, what),
    holder: paths => holderOfFiles(folder, paths),
    done,
  });
}

/** A history folder and, where `path` names one of its files, that point. Throws NOT_FOUND, IO, POINT_UNKNOWN. */
export function openHistory(
  path: string,
  options: { readonly catalogue?: boolean } = {},
): {
  readonly history: History;
  readonly point: HistoryPoint | undefined;
} {
  const folder = folderOf(path);
  const history = new History(folder, options);
  if (folder === path) return { history, point: undefined };
  try {
    const name = basename(path);
    return { history, point: history.find(name.replace(/\.(json|tree|map|unused|verified)$/, '')) };
  } catch (error) {
    history.close();
    throw error;
  }
}

/** A history as `asof mount` shows it. */
export class MountedHistory {
  readonly path: string;
  readonly tree: Tree;
  readonly points: readonly HistoryPoint[];
  readonly #history: History;
  readonly #engine = newEngine();
  readonly #disks: Disk[] = [];

  /** Throws NOT_FOUND, IO, or POINT_UNKNOWN where the folder has no point. */
  constructor(path: string, onDamage: OnDamage) {
    this.#history = new History(path);
    // What is shown stays, also what nobody has looked at yet.
    this.#history.hold();
    this.path = this.#history.path;
    this.points = this.#history.points;
    if (this.points.length === 0) {
      throw new AsofError(
        'POINT_UNKNOWN',
        `${this.path} holds no point of a history`,
        command`asof history ${this.path}`,
      );
    }
    const names = [...new Set(this.points.map(({ manifest }) => manifest.volume.name))];
    const folders = names.map(name => this.#volume(name, onDamage));
    this.tree = { kind: 'directory', name: '', modified: latest(this.points), entries: folders };
  }

  close(): void {
    for (const disk of this.#disks) disk.close();
    this.#engine.close();
    this.#history.close();
  }

  #volume(name: string, onDamage: OnDamage): Directory {
    const points = this.#history.of(name);
    const folders = points.map((point): Directory => {
      const shown = this.#entries(point, onDamage);
      return { kind: 'directory', name: point.moment, modified: point.time, ...shown };
    });
    const newest = folders.at(-1)!;
    return {
      kind: 'directory',
      name,
      modified: latest(points),
      entries: [...newest.entries, ...folders],
      more: newest.more,
      find: text => {
        const time = text.startsWith('@') ? endOfTime(text.slice(1)) : undefined;
        const index = time ? points.findLastIndex(point => point.time <= time) : -1;
        return index < 0 ? undefined : folders[index];
      },
    };
  }

  #entries(point: HistoryPoint, onDamage: OnDamage): Pick<Directory, 'entries' | 'more'> {
    const disk = new Disk(this.#engine, this.#history.source(point), onDamage);
    this.#disks.push(disk);
    const modified = point.time;
    const partitions = new PartitionTree(disk, disk.source.sectorSize);
    const state = async () => ({ ...stateOfPoint(this.#history, point), ...(await partitions.info()) });
    const defects = () => ({
      point: point.manifest.id,
      bad: point.manifest.bad.runs,
      defects: disk.defects(),
    });
    const entries: Entry[] = [
      { kind: 'disk', name: 'disk', modified, disk },
      { kind: 'text', name: 'info.json', modified, text: async () => json(await state()) },
      { kind: 'text', name: 'defects.json', modified, text: () => json(defects()) },
    ];
    return { entries, more: () => partitions.files(modified) };
  }
}

function latest(points: readonly HistoryPoint[]): Date {
  return points.at(-1)!.time;
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
