/**
 * A backup: one more point in a history's folder, or none.
 *
 *   lock, clear leftovers → decide what it stands on → intent → copy → sync → read back and compare → commit
 *
 * Whatever fails before the commit takes away what it wrote and throws; a process that is killed leaves it to the next
 * run. The proof: digests were taken while the source was read; the stored image and its tree are read back, from the
 * disk as far as the kernel lets it go, and have to give the same root.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, fsyncSync, openSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import type { Disk } from '../block/disk.js';
import { ImageFile } from '../block/file.js';
import { AsofError, errnoOf } from '../errors.js';
import { momentOf } from '../moment.js';
import { Engine, loadAddon } from '../native.js';
import { type BaseRequest, type Decision, decide } from './backup-base.js';
import { type CopyOptions, copyClusters, spaceHint } from './backup-copy.js';
import { inUse, type Plan, sparing, tracked, whatMayDiffer } from './backup-plan.js';
import { failureOf, markNoted } from './failures.js';
import { History, type HistoryPoint } from './history.js';
import { HistoryFolder, type NewPoint } from './history-folder.js';
import { bytesOf, encodeRuns, excludedRuns } from './left-out.js';
import { type Consistency, joinRuns, type Manifest, type Run } from './manifest.js';
import { mapfile } from './mapfile.js';
import { metadataDigest } from './qcow2-metadata.js';
import { CLUSTER, Qcow2Writer } from './qcow2-writer.js';
import { TreeWriter } from './tree-writer.js';
import { verifyPoint } from './verify.js';
import { writeAt } from './write.js';

/** Holes up to so many bytes, or as many as there is data, are digested with the whole disk. */
const HOLES_DIGESTED = 2 ** 30;

/** What is read. Nobody writes to it meanwhile. */
export interface BackupSource {
  readonly disk: Disk;
  readonly volume: Manifest['volume'];
  readonly time: Date;
  readonly consistency: Consistency;
  /** The snapshot that it is of, as the tracker knows it. */
  readonly snapshot: string | null;
  /** `holes`: the source tells what is in use; `map`: its file system does; `all`: all of it is read. */
  readonly allocation: Manifest['allocation'];
  readonly allocationWhy?: string | undefined;
  /** What `disk` reads as zeros though the source may not: in order, apart. */
  readonly unused?: readonly Run[] | undefined;
  readonly excluded?: Manifest['excluded'];
  readonly excludedNot?: Manifest['excludedNot'];
  readonly tracker?: BaseRequest['tracker'];
  /** Asked when all is read: why what was read is no one moment; undefined where it is. */
  readonly changed?: (() => Promise<string | undefined> | string | undefined) | undefined;
}

export interface BackupOptions
  extends Pick<BaseRequest, 'kind' | 'base' | 'method'>,
    Pick<CopyOptions, 'level' | 'ignoreReadErrors' | 'rate' | 'signal' | 'urgent' | 'passed' | 'stored'> {
  readonly label: string;
  readonly progress?: ((state: BackupProgress) => void) | undefined;
  /** For tests: called at each step by name; what it throws is a failure of that step. */
  readonly step?: ((name: BackupStep) => void) | undefined;
}

export const BACKUP_STEPS = ['begun', 'copied', 'synced', 'proved', 'committed'] as const;
export type BackupStep = (typeof BACKUP_STEPS)[number];

export interface BackupProgress {
  readonly phase: 'copy' | 'prove';
  /** Bytes: to be read (at most), read, and of the image so far. */
  readonly total: number;
  readonly done: number;
  readonly stored: number;
}

export interface BackupResult {
  readonly point: HistoryPoint;
  /** Names of files that a killed run had left. */
  readonly cleared: readonly string[];
}

/**
 * Throws HISTORY_BUSY, BASE_UNUSABLE, POINT_UNKNOWN, DAMAGED (a sector of the source), BACKUP_FAILED or IO; the folder
 * then has the points that it had.
 */
export async function backup(
  folder: string,
  source: BackupSource,
  options: BackupOptions,
): Promise<BackupResult> {
  const began = performance.now();
  const start = new Date();
  const place = new HistoryFolder(folder);
  let history: History | undefined;
  let point: NewPoint | undefined;
  try {
    history = new History(place.path);
    source = { ...source, volume: named(history, source.volume) };
    const decision = await decide(history, {
      volume: source.volume.id,
      size: source.disk.size,
      clusterSize: CLUSTER,
      kind: options.kind,
      base: options.base,
      method: options.method,
      tracker: source.tracker,
      leftOut: leftOutOf(source),
    });
    const { id, name } = source.volume;
    const about = { began: start.toISOString(), volume: { id, name } };
    point = place.begin(`${fileName(name)}-${momentOf(source.time)}`, about);
    options.step?.('begun');
    const manifest = await write(history, point, source, decision, options, began);
    point.commit(manifest);
    options.step?.('committed');
    history.keepCatalogue();
    const done = { manifest, time: source.time, moment: momentOf(source.time), stem: point.stem };
    return { point: done, cleared: place.cleared };
  } catch (error) {
    const errno = errnoOf(error);
    const failed =
      error instanceof AsofError || !errno
        ? error
        : new AsofError('BACKUP_FAILED', `cannot write to ${place.path}: ${errno}`, spaceHint(errno), {
            cause: error,
          });
    const failure = failureOf(failed, source.volume, start);
    if (point) point.abandon(failure);
    else place.note(failure);
    markNoted(failed);
    throw failed;
  } finally {
    history?.close();
    place.close();
  }
}

async function write(
  history: History,
  point: NewPoint,
  source: BackupSource,
  decision: Decision,
  options: BackupOptions,
  began: number,
): Promise<Manifest> {
  const { disk, volume } = source;
  const shape = { size: disk.size, clusterSize: CLUSTER };
  const { base, tree: baseTree, extents } = decision;
  const threads = availableParallelism();
  const imager = new (loadAddon().Imager)(threads, CLUSTER);
  let writer: Qcow2Writer | undefined;
  let tree: TreeWriter | undefined;
  try {
    writer = new Qcow2Writer(point.partial('qcow2'), {
      size: disk.size,
      backing: base?.manifest.image.file,
      zstd: options.level > 0,
    });
    tree = new TreeWriter(point.partial('tree'), shape, baseTree);
    const total = amount(planOf(source, decision));
    const copied = await copyClusters(planOf(source, decision), {
      disk,
      clusterSize: CLUSTER,
      imager,
      writer,
      tree,
      base: baseTree,
      distrusted: decision.distrusted,
      level: options.level,
      parallel: threads + 2,
      ignoreReadErrors: options.ignoreReadErrors,
      rate: options.rate,
      // Where bytes are left out there is no digest of the whole: it would not be that of the source.
      whole:
        !extents && leftOutOf(source).length === 0 && disk.size - total <= Math.max(HOLES_DIGESTED, total),
      urgent: options.urgent,
      passed: options.passed,
      stored: options.stored,
      signal: options.signal,
      progress: ({ read, stored }) => options.progress?.({ phase: 'copy', total, done: read, stored }),
    });
    const changed = await source.changed?.();
    if (changed) {
      const hint = source.snapshot === null ? 'asof volume add protects it: then a snapshot is read' : '';
      throw new AsofError('BACKUP_FAILED', changed, hint);
    }
    options.step?.('copied');
    writer.finish();
    const root = tree.finish();
    const { length, stored } = writer;
    writer.close();
    tree.close();
    // Bad places of the base that were read again are good now, or in the list again.
    const bad = joinRuns(copied.bad);
    if (bad.length > 0) writeNew(point.partial('map'), Buffer.from(mapfile(bad, disk.size, source.time)));
    const unused = source.unused?.length ? encodeRuns(source.unused) : undefined;
    if (unused) writeNew(point.partial('unused'), unused);
    options.step?.('synced');
    const provisional: Manifest = {
      id: point.id,
      volume,
      time: source.time.toISOString(),
      label: options.label,
      consistency: source.consistency,
      kind: decision.kind,
      kindWhy: decision.kindWhy,
      base: base ? { id: base.manifest.id, root: base.manifest.root, choice: decision.choice } : null,
      method: decision.method,
      methodWhy: decision.methodWhy,
      snapshot: source.snapshot,
      disk: { size: disk.size, sectorSize: disk.source.sectorSize, clusterSize: CLUSTER },
      root,
      sha256: copied.sha256 ?? null,
      image: {
        file: basename(point.partial('qcow2')),
        bytes: length,
        compression: options.level > 0 ? `zstd:${options.level}` : 'none',
        ...stored,
        metadata: metadataOf(point.partial('qcow2')),
      },
      tree: { file: basename(point.partial('tree')), bytes: statSync(point.partial('tree')).size },
      allocation: source.allocation,
      ...(source.allocationWhy === undefined ? {} : { allocationWhy: source.allocationWhy }),
      unused: unused
        ? {
            file: basename(point.partial('unused')),
            runs: source.unused!.length,
            bytes: bytesOf(source.unused!),
            sha256: createHash('sha256').update(unused).digest('hex'),
          }
        : null,
      ...(source.excluded ? { excluded: source.excluded } : {}),
      ...(source.excludedNot ? { excludedNot: source.excludedNot } : {}),
      read: copied.read,
      bad: { runs: bad, file: bad.length > 0 ? point.name('map') : null },
      proof: { root, time: new Date(0).toISOString() },
      milliseconds: 0,
    };
    const proof = await prove(history, provisional, imager, threads + 2, bytes => {
      if (options.signal?.aborted) throw new AsofError('BACKUP_FAILED', 'the backup was stopped');
      options.progress?.({ phase: 'prove', total, done: bytes, stored: length });
    });
    options.step?.('proved');
    return {
      ...provisional,
      image: { ...provisional.image, file: point.name('qcow2') },
      tree: { ...provisional.tree, file: point.name('tree') },
      unused: provisional.unused ? { ...provisional.unused, file: point.name('unused') } : null,
      proof: { root, time: proof },
      milliseconds: Math.round(performance.now() - began),
    };
  } finally {
    imager.close();
    writer?.close();
    tree?.close();
  }
}

/** What the new image leaves out, in order, apart. */
function leftOutOf({ unused, excluded }: BackupSource): readonly Run[] {
  const swap = excludedRuns({ excluded });
  return swap.length > 0 ? joinRuns([...(unused ?? []), ...swap]) : (unused ?? []);
}

function planOf(source: BackupSource, { extents, tree }: Decision): Plan {
  const { disk } = source;
  if (extents) {
    const plan = tracked(extents, disk.size, CLUSTER);
    return tree ? sparing(plan, leftOutOf(source), disk.size, tree) : plan;
  }
  return tree ? whatMayDiffer(disk.source, CLUSTER, tree) : inUse(disk.source, CLUSTER);
}

/** Bytes that a plan reads, about. */
function amount(plan: Plan): number {
  let clusters = 0;
  for (const { kind, first, end } of plan) if (kind === 'read') clusters += end - first;
  return clusters * CLUSTER;
}

/** Reads the image back; when that was done. Throws BACKUP_FAILED where it is not what was read from the source. */
async function prove(
  history: History,
  manifest: Manifest,
  imager: InstanceType<ReturnType<typeof loadAddon>['Imager']>,
  parallel: number,
  progress: (bytes: number) => void,
): Promise<string> {
  const engine = new Engine({ cacheBytes: 2 ** 20, mapBytes: 16 * 2 ** 20, threads: availableParallelism() });
  try {
    const point = { manifest, time: new Date(manifest.time), moment: '', stem: manifest.id };
    const result = await verifyPoint(history, point, {
      engine,
      imager,
      parallel,
      deep: false,
      sample: null,
      progress,
    });
    if (result.sound) return result.time;
    const [defect] = result.defects;
    const what = result.faults[0] ?? `${defect!.length} bytes at ${defect!.offset}: ${defect!.why}`;
    throw new AsofError(
      'BACKUP_FAILED',
      `the image that was written is not what was read from the source: ${what}`,
      'the disk, the memory or the controller there may be faulty',
    );
  } finally {
    engine.close();
  }
}

function metadataOf(path: string): string {
  const file = ImageFile.open(path);
  try {
    return metadataDigest(file);
  } finally {
    file.close();
  }
}

function writeNew(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    writeAt(fd, bytes, 0);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** The volume with the name that it has in the history; of two volumes with one name, the later has a number behind it. */
function named(history: History, volume: Manifest['volume']): Manifest['volume'] {
  const known = history.points.findLast(({ manifest }) => manifest.volume.id === volume.id)?.manifest.volume
    .name;
  if (known !== undefined) return { ...volume, name: known };
  const taken = new Set(history.points.map(({ manifest }) => manifest.volume.name));
  let { name } = volume;
  for (let i = 2; taken.has(name); i++) name = `${volume.name}-${i}`;
  return { ...volume, name };
}

/** A volume's name as the beginning of names of files. */
function fileName(name: string): string {
  const safe = name.replaceAll(/[^A-Za-z0-9_-]+/g, '_').slice(0, 64);
  return safe || 'volume';
}
