/**
 * Composition of a mirror: a copy of a disk on a file or block device, kept current in place. It boots where the disk boots.
 *
 *   claim; is it the target that it was? → what differs → guard → record says "updating" → the target's start becomes a
 *   notice → what differs is written, synced, read back → the start is written → record says "whole"
 *
 * Until the record says "updating" nothing of the target is touched; a run that finds no difference touches nothing of it.
 * A run that ends in between, in whatever way, leaves a target that nobody takes for whole: the next run compares all of it.
 */
import { randomUUID } from 'node:crypto';
import { fstatSync, fsync, ftruncateSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { Disk } from './block/disk.js';
import { ImageFile } from './block/file.js';
import { type GptWrite, movedGpt, readGpt } from './block/gpt.js';
import { rawLayer } from './block/raw-file.js';
import { type BlockSource, checkRange } from './block/source.js';
import { stack } from './block/stack.js';
import { zeros } from './block/zero.js';
import { constantsOf, identityOf, type Looked } from './cow/identity.js';
import { AsofError, errnoOf } from './errors.js';
import type { Tracker } from './image/backup-base.js';
import type { Run } from './image/manifest.js';
import {
  cannotWrite,
  type Differing,
  differing,
  type MirrorJob,
  readBackClusters,
  writeClusters,
} from './image/mirror.js';
import { CLUSTER } from './image/qcow2-writer.js';
import { bytesHeld, writeAll } from './image/restore.js';
import { Edges, edgeClusters } from './mirror-edges.js';
import {
  type MirrorMoment,
  type MirrorRecord,
  MirrorRecords,
  noticeBytes,
  samplesOf,
} from './mirror-record.js';
import { lost, outlineOf } from './mirror-shape.js';
import { type Admitted, admit, lookAt } from './mirror-target.js';
import type { NamedPoint } from './named-point.js';
import { Engine, loadAddon, type NativeImager } from './native.js';
import { hasGpt, partitioned } from './restore.js';
import { type Claimed, claimTarget, createTarget, type Target } from './restore-target.js';
import { syncFolder } from './sync-folder.js';

export { type MirrorStatus, statusOf } from './mirror-target.js';
export { type NamedPoint, openPoint } from './named-point.js';

const CACHE = 64 * 2 ** 20;
const MAP_BYTES = 32 * 2 ** 20;

/** What is mirrored: a point, and what is known beside its bytes. */
export interface MirrorSource {
  readonly point: NamedPoint;
  readonly volume: { readonly id: string; readonly name: string };
  readonly time: Date;
  readonly consistency: string;
  /** The snapshot that it is, as the tracker knows it. */
  readonly snapshot: string | null;
  /** Real paths that the target must not be, beside the point's own files. */
  readonly files: readonly string[];
  readonly tracker: Tracker | undefined;
  /** Asked when all is read: why what was read is no one moment; undefined where it is. */
  readonly changed: (() => Promise<string | undefined> | string | undefined) | undefined;
}

export interface MirrorProgress {
  readonly phase: 'compare' | 'write' | 'verify';
  /** Bytes. */
  readonly done: number;
  readonly total: number;
}

export const MIRROR_STEPS = [
  'compared',
  'updating',
  'noticed',
  'written',
  'synced',
  'verified',
  'head',
  'whole',
] as const;
export type MirrorStep = (typeof MIRROR_STEPS)[number];

export interface MirrorOptions {
  /** The state directory, with the records. */
  readonly state: string;
  /** `auto`: as tracked where the target is a file that is certainly as it was left. */
  readonly method: 'auto' | 'tracked' | 'compared';
  /** Of what is in use, what may differ at most: 0 to 1. */
  readonly guard: number;
  /** Nothing is guarded. */
  readonly acceptChanges: boolean;
  readonly force: boolean;
  readonly dryRun: boolean;
  readonly verify: boolean;
  /** Bytes a second, of each pass; 0 is no limit. */
  readonly rate: number;
  readonly signal: AbortSignal | undefined;
  readonly progress: ((state: MirrorProgress) => void) | undefined;
  /** For tests: called at each step by name; what it throws is a failure of that step. */
  readonly step?: ((name: MirrorStep) => void) | undefined;
}

export interface Mirrored {
  readonly source: MirrorSource['volume'];
  readonly moment: MirrorMoment;
  readonly target: Target;
  /** It had never been whole before, so that nothing was guarded. */
  readonly first: boolean;
  readonly method: 'tracked' | 'compared';
  readonly methodWhy: string;
  /** Bytes: looked at; in use in one of the two; of these those that differed, and their share. */
  readonly compared: number;
  readonly held: number;
  readonly differing: number;
  readonly share: number;
  readonly dryRun: boolean;
  /** Bytes: written, made zeros, and read back and found right; null where that was left out. */
  readonly written: number;
  readonly zeroed: number;
  readonly verified: number | null;
  /** The second header of the partition table is, or would be, at the end of a larger disk. */
  readonly gptMoved: boolean;
  readonly milliseconds: number;
}

const sync = promisify(fsync);

/**
 * Throws what claiming the target throws, TARGET_CHANGED, MIRROR_GUARDED, BASE_UNUSABLE (`--method tracked`), DAMAGED and
 * MIRROR_FAILED.
 */
export async function mirror(source: MirrorSource, path: string, options: MirrorOptions): Promise<Mirrored> {
  const engine = new Engine({ cacheBytes: CACHE, mapBytes: MAP_BYTES, threads: availableParallelism() });
  const imager = new (loadAddon().Imager)(availableParallelism(), CLUSTER);
  const disk = new Disk(engine, source.point.source);
  const run = new MirrorRun(source, options, engine, imager, disk);
  try {
    return await run.to(path);
  } catch (error) {
    throw run.told(error, path);
  } finally {
    run.close();
    disk.close();
    imager.close();
    engine.close();
  }
}

class MirrorRun {
  readonly #source: MirrorSource;
  readonly #options: MirrorOptions;
  readonly #engine: Engine;
  readonly #imager: NativeImager;
  readonly #disk: Disk;
  readonly #records: MirrorRecords;
  readonly #began = performance.now();
  #claimed: Claimed | undefined;
  #made: ReturnType<typeof createTarget> | undefined;
  /** The record says that the target is being updated. */
  #updating = false;

  constructor(
    source: MirrorSource,
    options: MirrorOptions,
    engine: Engine,
    imager: NativeImager,
    disk: Disk,
  ) {
    this.#source = source;
    this.#options = options;
    this.#engine = engine;
    this.#imager = imager;
    this.#disk = disk;
    this.#records = new MirrorRecords(options.state);
  }

  close(): void {
    this.#made?.close();
    this.#claimed?.close();
  }

  async to(text: string): Promise<Mirrored> {
    const { point, volume, files } = this.#source;
    const { force, acceptChanges, guard, dryRun } = this.#options;
    const length = this.#disk.size;
    this.#refuseBad();
    const held = bytesHeld({ disk: this.#disk, tree: point.tree, clusterSize: CLUSTER, start: 0, length });
    const request = { length, held, files: [...point.files, ...files], history: point.history, force: true };
    this.#claimed = await claimTarget(text, request);
    const { target, origin } = this.#claimed;
    const known = this.#records.find(target.path, origin && constantsOf(origin));
    const admitted = admit(target, origin, known, volume, force);
    const { record, last } = admitted;
    const outline = await outlineOf(partitioned(this.#disk));
    const gone = last && record && !acceptChanges ? lost(record.outline, outline) : undefined;
    if (gone) throw guarded(`the source looks destroyed: ${gone}`);

    const size = Math.max(target.size, length);
    const gpt = size > length && (await hasGpt(this.#disk)) ? await this.#gptAt(size) : [];
    const except = edgeClusters(length, CLUSTER, gpt);
    const job = this.#job(except, target.path);
    const how = await this.#method(admitted);
    const found = await this.#compare(
      { ...job, progress: this.#progress('compare', this.#toCompare(target, held, how.extents)) },
      target,
      how.extents,
    );
    const edges = await Edges.of(job, except, size, origin, gpt);
    const changed = found.clusters.count * CLUSTER + edges.differing;
    const used = Math.min(
      length,
      Math.max(changed, found.held + edges.held, how.extents ? (last?.held ?? 0) : 0),
    );
    const share = used > 0 ? changed / used : 0;
    await this.#refuseChanged();
    this.#options.step?.('compared');
    if (last && !admitted.altered && !acceptChanges && share > guard) {
      const what = `${percent(share)} of what is in use would change, and ${percent(guard)} are allowed`;
      throw guarded(`${what}: ${changed} of ${used} bytes`);
    }
    const moment: MirrorMoment = {
      time: this.#source.time.toISOString(),
      point: point.id,
      snapshot: this.#source.snapshot,
      consistency: this.#source.consistency,
      size: length,
      held: used,
    };
    const done = { written: 0, zeroed: 0, verified: 0 as number | null };
    if (!dryRun) {
      const next = { id: record?.id ?? randomUUID(), source: volume, moment, outline };
      const was = record ?? { identity: null, samples: [] };
      const same = changed === 0 && target.exists && target.size >= length;
      if (same) await this.#keep(next, target.path, length, gpt.length > 0, record?.state === 'updating');
      else
        Object.assign(
          done,
          await this.#update(next, was, last ?? null, job, found, edges, target, gpt.length > 0),
        );
    }
    return {
      source: volume,
      moment,
      target,
      first: last === undefined,
      method: how.extents ? 'tracked' : 'compared',
      methodWhy: how.why,
      compared: found.compared,
      held: used,
      differing: changed,
      share,
      dryRun,
      ...done,
      verified: this.#options.verify && !dryRun ? done.verified : null,
      gptMoved: gpt.length > 0,
      milliseconds: Math.round(performance.now() - this.#began),
    };
  }

  /** The error, and what it means for the target. */
  told(error: unknown, path: string): unknown {
    const state = this.#updating
      ? `${path} is marked as being updated, until a run ends well`
      : 'nothing of the target was written';
    const kept = ['DAMAGED', 'MIRROR_FAILED', 'IO'];
    if (error instanceof AsofError) {
      const { code, message, hint } = error;
      if (!kept.includes(code)) return error;
      return new AsofError(code, `${message}; ${state}`, hint, { cause: error });
    }
    const errno = errnoOf(error);
    if (!errno) return error;
    return new AsofError('MIRROR_FAILED', `cannot write ${path}: ${errno}; ${state}`, '', { cause: error });
  }

  #refuseBad(): void {
    const [run] = this.#source.point.bad;
    if (this.#disk.size === 0) throw new AsofError('MIRROR_FAILED', 'the source has no bytes');
    if (!run) return;
    const what = `${run[1]} bytes at ${run[0]} could not be read when ${this.#source.point.label} was made`;
    throw new AsofError('DAMAGED', what, 'mirror another point');
  }

  async #refuseChanged(): Promise<void> {
    const why = await this.#source.changed?.();
    if (why)
      throw new AsofError('MIRROR_FAILED', why, 'asof volume add protects it: then a snapshot is read');
  }

  async #gptAt(size: number): Promise<GptWrite[]> {
    return movedGpt(await readGpt(partitioned(this.#disk)), size, this.#disk.source.sectorSize);
  }

  #job(except: ReadonlySet<number>, path: string): MirrorJob {
    const { tree } = this.#source.point;
    const { rate, signal } = this.#options;
    return {
      disk: this.#disk,
      tree: tree?.clusterSize === CLUSTER ? tree : undefined,
      clusterSize: CLUSTER,
      except,
      imager: this.#imager,
      target: { fd: this.#claimed!.fd, path },
      parallel: availableParallelism() + 2,
      rate,
      signal,
      progress: undefined,
    };
  }

  #progress(phase: MirrorProgress['phase'], total: number): (done: number) => void {
    return done => this.#options.progress?.({ phase, done, total });
  }

  /** Bytes that will be looked at, about. */
  #toCompare(target: Target, held: number, extents: readonly Run[] | undefined): number {
    if (extents) return extents.reduce((sum, [, size]) => sum + size, 0);
    if (!target.exists) return held;
    if (target.kind === 'device') return this.#disk.size;
    return Math.min(this.#disk.size, Math.max(held, fstatSync(this.#claimed!.fd).blocks * 512));
  }

  /** What may differ at all; undefined is everything. */
  async #method({ record, last, certain, whyNot }: Admitted): Promise<{
    readonly extents: readonly Run[] | undefined;
    readonly why: string;
  }> {
    const { method } = this.#options;
    const { tracker } = this.#source;
    const compared = (why: string) => {
      if (method !== 'tracked') return { extents: undefined, why };
      throw new AsofError('BASE_UNUSABLE', `what differs is not known: ${why}`, '--method auto');
    };
    if (method === 'compared') return compared('it was asked for');
    if (!tracker) return compared('nothing tracks what is written to the source');
    if (!record || !last) return compared(whyNot);
    if (!certain) return compared(whyNot);
    if (certain === 'device' && method === 'auto') return compared('the target is a device');
    if (last.size !== this.#disk.size) return compared('the size of the source has changed');
    if (last.snapshot === null) return compared('what the target holds was not read from a snapshot');
    const { extents, why } = await tracker(last.snapshot);
    return extents ? { extents, why } : compared(why);
  }

  async #compare(job: MirrorJob, target: Target, extents: readonly Run[] | undefined): Promise<Differing> {
    return this.#withTarget(target.exists ? target.path : undefined, there => differing(job, there, extents));
  }

  /** The target as a disk of the source's size, as it is now. */
  async #withTarget<T>(path: string | undefined, work: (there: Disk) => Promise<T>): Promise<T> {
    const file = path === undefined ? undefined : ImageFile.open(path);
    const { size, sectorSize } = this.#disk.source;
    const there = new Disk(this.#engine, file ? ofSize(file, size) : zeros(size, sectorSize));
    try {
      return await work(there);
    } finally {
      there.close();
      file?.close();
    }
  }

  /** Nothing differs: the target is not touched, and holds the newer moment now. */
  async #keep(
    next: Pick<MirrorRecord, 'id' | 'source' | 'moment' | 'outline'>,
    path: string,
    length: number,
    tail: boolean,
    unended: boolean,
  ): Promise<void> {
    const { origin } = this.#claimed!;
    // A run that was killed may have written what is not on stable storage yet.
    if (unended) await sync(origin!.fd);
    this.#whole(next, origin!, path, length, tail);
  }

  async #update(
    next: Pick<MirrorRecord, 'id' | 'source' | 'moment' | 'outline'>,
    was: Pick<MirrorRecord, 'identity' | 'samples'>,
    before: MirrorMoment | null,
    unplaced: MirrorJob,
    found: Differing,
    edges: Edges,
    target: Target,
    tail: boolean,
  ): Promise<{ written: number; zeroed: number; verified: number }> {
    const { step, verify } = this.#options;
    const { path } = target;
    const length = this.#disk.size;
    if (!target.exists) this.#made = createTarget(path);
    const fd = this.#made?.fd ?? this.#claimed!.fd;
    const job = { ...unplaced, target: { fd, path } };
    edges.onto(job);
    const looked = this.#looked(path);
    const began = {
      ...next,
      target: { ...constantsOf(looked), path },
      state: 'updating' as const,
      since: new Date().toISOString(),
      before,
      identity: was.identity,
      samples: was.samples,
    };
    this.#records.write(began);
    this.#updating = true;
    step?.('updating');
    if (this.#made) syncFolder(dirname(path));
    const notice = noticeBytes(began, length);
    try {
      writeAll(fd, notice, 0);
    } catch (error) {
      cannotWrite(path)(error);
    }
    await sync(fd);
    if (target.kind === 'file' && fstatSync(fd).size < length) ftruncateSync(fd, length);
    step?.('noticed');
    const total = found.clusters.count * CLUSTER;
    const { written, zeroed } = await writeClusters(
      { ...job, progress: this.#progress('write', total) },
      found.clusters,
    );
    const rest = await edges.writeRest();
    step?.('written');
    await sync(fd);
    step?.('synced');
    await this.#refuseChanged();
    let verified = 0;
    if (verify) {
      loadAddon().dropCache(fd);
      const reading = { ...job, progress: this.#progress('verify', total) };
      verified = await this.#withTarget(path, there => readBackClusters(reading, there, found.clusters));
      verified += edges.readBack(this.#looked(path), false);
    }
    step?.('verified');
    // Without the notice, it is by these that a target is known whose record could not be written any more.
    const starts = next.outline.marks.map(({ start }) => start);
    const samples = samplesOf(edges.over(this.#looked(path)), length, starts, tail);
    this.#records.write({ ...began, identity: null, samples });
    const head = await edges.writeHead(() => sync(fd));
    await sync(fd);
    loadAddon().dropCache(fd);
    if (verify) verified += edges.readBack(this.#looked(path), true);
    step?.('head');
    this.#whole(next, this.#looked(path), path, length, tail);
    step?.('whole');
    return { written: written + notice.length + rest + head, zeroed, verified };
  }

  #whole(
    next: Pick<MirrorRecord, 'id' | 'source' | 'moment' | 'outline'>,
    looked: Looked,
    path: string,
    length: number,
    tail: boolean,
  ): void {
    const starts = next.outline.marks.map(({ start }) => start);
    this.#records.write({
      ...next,
      target: { ...constantsOf(looked), path },
      state: 'whole',
      since: new Date().toISOString(),
      before: null,
      identity: identityOf(looked),
      samples: samplesOf(looked, length, starts, tail),
    });
    this.#updating = false;
  }

  /** The target as it is now: a file may have grown. */
  #looked(path: string): Looked {
    const { origin } = this.#claimed!;
    if (!origin) return lookAt(this.#made!.fd, path);
    if (origin.device) return origin;
    return lookAt(origin.fd, path);
  }
}

/** The first `size` bytes of a target, with zeros behind its end. */
function ofSize(file: ImageFile, size: number): BlockSource {
  const whole = stack([rawLayer(file)], 512);
  return {
    size,
    sectorSize: 512,
    *extents(offset, length) {
      checkRange(size, offset, length);
      const has = Math.max(0, Math.min(length, whole.size - offset));
      if (has > 0) yield* whole.extents(offset, has);
      if (length > has) yield { kind: 'zero', length: length - has };
    },
    close() {},
  };
}

function guarded(what: string): AsofError {
  return new AsofError(
    'MIRROR_GUARDED',
    what,
    'look at the source first; --accept-changes goes on all the same',
  );
}

function percent(share: number): string {
  return `${Math.round(share * 1000) / 10} %`;
}
