/**
 * All volumes of a state directory. What changes any of them happens one after another, in the order in which it was asked
 * for; what only looks does not wait.
 */
import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { realpath } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { AsofError, errnoOf } from '../errors.js';
import type { CowActivity } from '../native.js';
import { command } from '../shell.js';
import { Activity, type Forecast, type Rates, SAMPLE_MS } from './activity.js';
import type { Changes } from './changed.js';
import { type Clock, SYSTEM_CLOCK } from './clock.js';
import type { MomentRecord } from './consistency.js';
import type { MarkerInfo } from './consumer.js';
import {
  checkRequest,
  DEFAULTS,
  type DeclaredVolume,
  type VolumeDefaults,
  type VolumeRequest,
} from './definition.js';
import { Deletions } from './deletions.js';
import { type Job, type JobInfo, Jobs } from './jobs.js';
import { lvmSizeOf, NO_POLICIES, orderOf, type SnapshotPolicies } from './policy.js';
import { USUAL } from './providers.js';
import type { MomentRequest } from './quiesce.js';
import { committedOf, recoverJob, settleJobs, unwantedOf } from './recovery.js';
import { findSnapshots, type SnapshotInfo } from './snapshot.js';
import type { StateFolder } from './state-folder.js';
import { type TakenSnapshot, takeSnapshots } from './taking.js';
import { Volume, type Watcher } from './volume.js';

/** Milliseconds for which a file may count as open after its last close, and between two looks. */
const RELEASE_MS = 2000;
const RELEASE_STEP_MS = 20;

/** Samples of the activity between two looks at what providers must be asked for. */
const LOOK_SAMPLES = 30;

export interface VolumeActivity {
  readonly counters: CowActivity;
  readonly rates: Rates;
  readonly forecast: Forecast;
}

/** Since a snapshot (or `added`), or of a consumer: one of the two. Up to a snapshot, or up to now. */
export interface ChangesQuery {
  readonly since?: string;
  readonly consumer?: string;
  readonly until?: string;
}

export interface VolumesOptions extends Watcher {
  readonly state: StateFolder;
  /** Without symbolic links. Nothing below it can be an origin or a store: it would be served by the very process that waits for it. */
  readonly mountPoint?: string | undefined;
  readonly defaults?: VolumeDefaults | undefined;
  /** Names for several volumes. */
  readonly groups?: ReadonlyMap<string, readonly string[]> | undefined;
  /** Which providers take the snapshots of what. */
  readonly policies?: SnapshotPolicies | undefined;
  /** After each change of what a mount shows; awaited, so that a name is gone before what it stood for. */
  readonly changed?: (() => Promise<void>) | undefined;
  readonly clock?: Clock | undefined;
}

/** A snapshot with how it came about; null where that is not known. */
export type ShownSnapshot = SnapshotInfo & { readonly record: MomentRecord | null };

export class Volumes {
  readonly #options: VolumesOptions;
  readonly #all = new Map<string, Volume>();
  readonly #activity = new WeakMap<Volume, Activity>();
  readonly #sampler: NodeJS.Timeout;
  readonly #running = new Set<Promise<unknown>>();
  readonly #jobs: Jobs;
  readonly #deletions: Deletions;
  /** Unfinished when this daemon started, and not done with yet. */
  #owing: readonly Job[] = [];
  readonly #stopping = new AbortController();
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;
  #samples = 0;

  private constructor(options: VolumesOptions) {
    this.#options = options;
    // Every step of every job listens to it.
    setMaxListeners(0, this.#stopping.signal);
    this.#jobs = new Jobs(options.state.path, options.log);
    this.#deletions = new Deletions(options.state.path, options.log);
    this.#sampler = setInterval(() => this.#sample(), SAMPLE_MS);
    this.#sampler.unref();
  }

  /** Brings back what the state directory holds, as it was. */
  static async open(options: VolumesOptions): Promise<Volumes> {
    const volumes = new Volumes(options);
    const { state } = options;
    const unwanted = unwantedOf(volumes.#jobs);
    for (const id of state.volumes()) {
      const volume = await Volume.open(state.volume(id), id, state.lastAlive, options, unwanted);
      if (volume) volumes.#all.set(id, volume);
    }
    await volumes.#settleGroups();
    await volumes.#finishDeletions();
    volumes.#owing = await settleJobs(volumes.#jobs, volumes.#all, volumes.#clock);
    return volumes;
  }

  get #clock(): Clock {
    return this.#options.clock ?? SYSTEM_CLOCK;
  }

  /** Does what jobs still owe that a daemon left when it was killed. Never rejects. A second call does nothing. */
  recover(): Promise<void> {
    const owing = this.#owing;
    this.#owing = [];
    const { log } = this.#options;
    const context = { clock: this.#clock, log, stopping: this.#stopping.signal, volumes: this.#all };
    const work = (async () => {
      for (const job of owing) {
        await recoverJob(job, context).catch((error: unknown) => log.error({ err: error }, 'a bug'));
      }
    })();
    return this.#tracked(work);
  }

  /** Waited for at the end. */
  #tracked<T>(work: Promise<T>): Promise<T> {
    this.#running.add(work);
    work.catch(() => undefined).finally(() => this.#running.delete(work));
    return work;
  }

  async #finishDeletions(): Promise<void> {
    for (const group of this.#deletions.groups) {
      try {
        for (const { volume, id } of group) {
          const owner = this.#all.get(volume);
          if (owner?.state === 'open') await owner.delete(id);
        }
        // What is on a volume that is not open waits for it, and is not shown.
        if (group.every(({ volume }) => (this.#all.get(volume)?.state ?? 'open') === 'open')) {
          this.#deletions.end(group);
        }
      } catch (error) {
        this.#options.log.error({ err: error }, 'a deletion that was begun could not be finished');
      }
    }
  }

  get #policies(): SnapshotPolicies {
    return this.#options.policies ?? NO_POLICIES;
  }

  /** A group is recorded, member by member, once it was taken whole; or all its members are there all the same. */
  async #settleGroups(): Promise<void> {
    const all = this.list();
    const recorded = new Set(all.flatMap(volume => volume.epochs()).map(one => one.group));
    const loose = all.flatMap(volume => volume.loose);
    const members = (group: string) => loose.filter(one => one.group === group).length;
    const committed = committedOf(this.#jobs);
    const whole = new Set(
      loose.filter(
        one => recorded.has(one.group) || committed.has(one.group) || members(one.group) >= one.groupSize,
      ),
    );
    for (const volume of all) await volume.settle(one => whole.has(one));
  }

  get groups(): ReadonlyMap<string, readonly string[]> {
    return this.#options.groups ?? new Map();
  }

  /** By name. */
  list(): Volume[] {
    return [...this.#all.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** By name or id. Throws VOLUME_UNKNOWN. */
  get(name: string): Volume {
    const volume = this.list().find(one => one.name === name) ?? this.#all.get(name);
    if (volume) return volume;
    throw new AsofError('VOLUME_UNKNOWN', `there is no volume ${JSON.stringify(name)}`, 'asof volume list');
  }

  /** Throws USAGE, VOLUME_EXISTS, and what opening origin and store throws. */
  add(asked: VolumeRequest): Promise<Volume> {
    return this.#next(async () => {
      const { stores, ...defaults } = this.#options.defaults ?? {};
      const request = { ...DEFAULTS, ...defaults, ...asked };
      checkRequest(request);
      const origin = await this.#canonical(request.origin);
      const twin = this.list().find(one => one.name === request.name || one.definition.origin === origin);
      if (twin) {
        const what = twin.name === request.name ? 'exists already' : `has the origin ${origin} already`;
        throw new AsofError(
          'VOLUME_EXISTS',
          `the volume ${twin.name} ${what}`,
          command`asof volume show ${twin.name}`,
        );
      }
      const id = randomUUID();
      const folder = this.#options.state.volume(id);
      // A name may come again when the volume is gone; its store must not meet what an older one left.
      const own =
        stores === undefined ? `${folder}/store` : `${stores}/${request.name}-${id.slice(0, 8)}.store`;
      const store = request.store === 'memory' ? undefined : (request.store ?? own);
      if (store !== undefined) await this.#checkFolder(store, 'STORE_UNUSABLE', 'as a store');
      const { name, chunkSize, durability, onCowError, cowTimeoutMs, storeLimit } = request;
      const volume = await Volume.add(
        folder,
        {
          id,
          name,
          origin,
          chunkSize,
          durability,
          onCowError,
          cowTimeoutMs,
          storeLimit,
          ...(store === undefined ? {} : { store }),
          added: Date.now(),
        },
        this.#options,
      );
      this.#all.set(id, volume);
      await this.#changed();
      return volume;
    });
  }

  /**
   * Adds those of `declared` that are not there yet. Throws VOLUME_EXISTS, before any is added, where one is there and is
   * not what was declared, and what `add` throws.
   */
  async declare(declared: readonly DeclaredVolume[]): Promise<void> {
    const missing: DeclaredVolume[] = [];
    for (const one of declared) {
      const there = this.list().find(({ name }) => name === one.request.name);
      if (!there) missing.push(one);
      else if (there.state !== 'unknown') await this.#requireSame(there, one);
    }
    for (const { where, request } of missing) {
      await this.add(request).catch((error: unknown) => {
        if (!(error instanceof AsofError)) throw error;
        throw new AsofError(error.code, `${where}: ${error.message}`, error.hint, { cause: error });
      });
      this.#options.log.info({ volume: request.name, where }, 'added, as declared');
    }
  }

  async #requireSame({ definition }: Volume, { where, request }: DeclaredVolume): Promise<void> {
    const origin = await realpath(request.origin).catch(() => request.origin);
    const is = { ...definition, store: definition.store ?? 'memory' };
    const wrong = Object.entries({ ...request, origin })
      .filter(([key, value]) => is[key as keyof typeof is] !== value)
      .map(([key, value]) => `${key} is ${is[key as keyof typeof is]}, not ${value}`);
    if (wrong.length === 0) return;
    throw new AsofError(
      'VOLUME_EXISTS',
      `${where}: the volume ${request.name} is there already, and is another one: its ${wrong.join(', its ')}`,
      `what a volume is does not change: make the file say what asof volume show ${request.name} says, or remove the volume first`,
    );
  }

  /** Throws VOLUME_IN_USE where it has snapshots, unless `force`. */
  remove(name: string, options: { readonly force: boolean }): Promise<Volume> {
    return this.#next(async () => {
      const volume = this.get(name);
      const count = volume.snapshots().length;
      if (count > 0 && !options.force) {
        throw new AsofError(
          'VOLUME_IN_USE',
          `the volume ${volume.name} has ${count} snapshot${count === 1 ? '' : 's'}`,
          `asof volume remove --force ${volume.name} removes them too`,
        );
      }
      this.#all.delete(volume.definition.id);
      await this.#changed();
      try {
        await volume.remove();
      } catch (error) {
        this.#all.set(volume.definition.id, volume);
        await this.#changed();
        throw error;
      }
      return volume;
    });
  }

  /** Every snapshot, oldest first; of one volume where it is named. */
  snapshots(name?: string): SnapshotInfo[] {
    const volumes = name === undefined ? this.list() : [this.get(name)];
    const shown = (volume: Volume) => volume.snapshots().filter(({ id }) => !this.#deletions.has(id));
    const wanted = volumes.flatMap(shown);
    const shared = wanted.some(({ groupSize }) => groupSize > 1);
    // Members are on other volumes.
    const all = !shared || name === undefined ? wanted : this.list().flatMap(shown);
    const members = (group: string) => all.filter(one => one.group === group);
    return wanted
      .map(one => (one.groupSize > 1 ? { ...one, groupWhy: groupTrouble(one, members(one.group)) } : one))
      .sort((a, b) => a.time - b.time);
  }

  /** Asks providers that must be asked for what `snapshots` and `show` tell. Never rejects. */
  async refresh(): Promise<void> {
    await Promise.all(this.list().map(volume => volume.refresh()));
  }

  /** The snapshot of that id, or all of the group. Throws SNAPSHOT_UNKNOWN. */
  find(id: string): SnapshotInfo[] {
    return findSnapshots(this.snapshots(), id);
  }

  /** Likewise, with how they came about. */
  show(id: string): ShownSnapshot[] {
    return this.find(id).map(one => ({
      ...one,
      record: this.get(one.volumeId).momentRecord(one.id) ?? null,
    }));
  }

  /**
   * One moment of all the named volumes, or one of each; `@NAME` is all of a group. Nothing else waits for it but for the time of the hold. Throws
   * SNAPSHOT_FAILED, PROVIDER_UNAVAILABLE, CONSISTENCY_UNMET, HOLD_REFUSED, QUIET_MISSED, COMMAND_FAILED; then there is no
   * snapshot.
   */
  snapshot(
    names: readonly string[],
    providers?: string | readonly string[],
    request: MomentRequest = {},
  ): Promise<TakenSnapshot[]> {
    return this.#tracked(
      this.#snapshot(names, typeof providers === 'string' ? [providers] : providers, request),
    );
  }

  /**
   * Likewise, of snapshots that `work` has to itself and that go when it is over, or the daemon stops: only they can be drained.
   * The commands that failed after the moment. Throws what `snapshot` throws, and what `work` throws.
   */
  async withSnapshots(
    names: readonly string[],
    providers: readonly string[] | undefined,
    request: MomentRequest,
    work: (snapshots: readonly SnapshotInfo[]) => Promise<void>,
  ): Promise<readonly string[]> {
    const { signal } = this.#stopping;
    const infos = await this.#tracked(
      this.#snapshot(names, providers, request, async snapshots => {
        const stopped = new Promise<never>((_, failed) => {
          const fail = () => failed(new AsofError('DAEMON_MISSING', 'the daemon is being stopped'));
          if (signal.aborted) fail();
          else signal.addEventListener('abort', fail, { once: true });
        });
        try {
          await Promise.race([work(snapshots), stopped]);
        } finally {
          stopped.catch(() => {});
          for (const group of new Set(snapshots.map(one => one.group))) {
            await this.deleteSnapshot(group).catch((error: unknown) => {
              // The next start deletes it.
              this.#options.log.error({ group, err: error }, 'a snapshot of a lease cannot be deleted');
            });
          }
        }
      }),
    );
    return infos[0]?.marks ?? [];
  }

  /** Jobs that are under way, and those of which something is kept: the newest first. */
  jobs(): JobInfo[] {
    return this.#jobs.infos();
  }

  /** Throws JOB_UNKNOWN. */
  job(id: string): JobInfo {
    return this.#jobs.show(id);
  }

  async #snapshot(
    names: readonly string[],
    providers: readonly string[] | undefined,
    request: MomentRequest,
    work?: (snapshots: readonly SnapshotInfo[]) => Promise<void>,
  ): Promise<TakenSnapshot[]> {
    this.#stopping.signal.throwIfAborted();
    const volumes = this.#members(names);
    if (volumes.length === 0 || new Set(volumes).size !== volumes.length) {
      throw new AsofError('USAGE', 'a snapshot is of one or more volumes, each named once');
    }
    const policies = this.#policies;
    if (this.#options.policies) {
      for (const volume of volumes) volume.lvmSize = lvmSizeOf(policies, volume.name);
    }
    const order = (set: readonly string[]) => providers ?? orderOf(policies, names, set) ?? USUAL;
    return takeSnapshots(volumes, order, request, {
      log: this.#options.log,
      clock: this.#clock,
      mountPoint: this.#options.mountPoint,
      folders: [this.#options.state.path],
      exclusively: work => this.#next(work),
      changed: () => this.#changed(),
      stopping: this.#stopping.signal,
      work,
      jobs: this.#jobs,
    });
  }

  /** The volumes that a snapshot of these names is of. Throws VOLUME_UNKNOWN. */
  members(names: readonly string[]): Volume[] {
    return this.#members(names);
  }

  /** Those of a group count once, also where they are named beside it. */
  #members(names: readonly string[]): Volume[] {
    const grouped = new Set<Volume>();
    const { groups } = this.#options;
    for (const name of names.filter(one => one.startsWith('@'))) {
      const members = groups?.get(name.slice(1));
      if (!members) {
        const known = [...(groups?.keys() ?? [])].map(one => `@${one}`).join(', ');
        throw new AsofError(
          'VOLUME_UNKNOWN',
          `there is no group ${JSON.stringify(name)}`,
          known === '' ? 'groups are named in the configuration: docs/config.md' : `there are ${known}`,
        );
      }
      for (const member of members) grouped.add(this.get(member));
    }
    const alone = names.filter(one => !one.startsWith('@')).map(name => this.get(name));
    return [...grouped, ...alone.filter(one => !grouped.has(one))];
  }

  /**
   * What is deleted with that id. Throws SNAPSHOT_UNKNOWN, SNAPSHOT_GROUPED, VOLUME_NOT_OPEN, and OVERLAY_IN_USE where one has an
   * overlay.
   */
  deletable(id: string): SnapshotInfo[] {
    const meant = this.find(id);
    refuseMember(id, meant);
    for (const { volumeId, id: one } of meant) {
      this.get(volumeId).opened();
      this.get(volumeId).overlays.refuse(one);
    }
    return meant;
  }

  /** The snapshot of that id, or all of the group. Throws what `deletable` throws, SNAPSHOT_FAILED or IO. */
  deleteSnapshot(id: string): Promise<SnapshotInfo[]> {
    return this.#next(async () => {
      const meant = this.deletable(id);
      const forgotten: NonNullable<ReturnType<Volume['forget']>>[] = [];
      const group = meant.map(({ volumeId, id: one }) => ({ volume: volumeId, id: one }));
      if (group.length > 1) this.#deletions.begin(group);
      try {
        // All in one turn: nobody sees a part of them.
        for (const { volumeId, id: one } of meant) forgotten.push(this.get(volumeId).forget(one)!);
      } catch (error) {
        // Where that fails as well, they are on their way: the next start finishes it.
        for (const one of forgotten) one.restore();
        if (group.length > 1) this.#deleted(group);
        throw error;
      }
      const ends = await Promise.allSettled(forgotten.map(one => one.reclaim()));
      if (group.length > 1) this.#deleted(group);
      await this.#changed();
      const failed = ends.find(one => one.status === 'rejected');
      if (failed) throw failed.reason;
      return meant;
    });
  }

  /** The next start ends it once more where this cannot be written down. */
  #deleted(group: Parameters<Deletions['end']>[0]): void {
    try {
      this.#deletions.end(group);
    } catch (error) {
      this.#options.log.error({ err: error }, 'that a deletion is over is not kept');
    }
  }

  /**
   * Lays a writable view over one snapshot, its layer in the file `path` or thrown away at the end. Throws SNAPSHOT_UNKNOWN,
   * OVERLAY_UNUSABLE or OVERLAY_IN_USE.
   */
  addOverlay(id: string, path: string | undefined): Promise<SnapshotInfo> {
    return this.#next(async () => {
      const snapshot = this.#one(id);
      if (snapshot.temporary) {
        throw new AsofError(
          'OVERLAY_UNUSABLE',
          `the snapshot ${snapshot.id} belongs to a lease, and goes with it`,
        );
      }
      const volume = this.get(snapshot.volumeId);
      volume.opened();
      if (path !== undefined)
        await this.#checkFolder(path, 'OVERLAY_UNUSABLE', 'for the layer of an overlay');
      await volume.addOverlay(snapshot.id, path);
      await this.#changed();
      return this.#one(snapshot.id);
    });
  }

  /**
   * Takes it away. `refuse` throws where somebody has it open by its name; where it is open without anybody being seen, and
   * stays so for a while, this does. Throws SNAPSHOT_UNKNOWN, NOT_FOUND or OVERLAY_IN_USE, and nothing has changed.
   */
  dropOverlay(id: string, refuse: (snapshot: SnapshotInfo) => Promise<void>): Promise<SnapshotInfo> {
    return this.#next(async () => {
      const snapshot = this.#one(id);
      const volume = this.get(snapshot.volumeId);
      const overlay = volume.overlays.get(snapshot.id);
      if (!overlay) {
        const hint = `asof snapshot overlay ${snapshot.id} makes one`;
        throw new AsofError('NOT_FOUND', `the snapshot ${snapshot.id} has no overlay`, hint);
      }
      await refuse(snapshot);
      volume.overlays.hide(snapshot.id);
      await this.#changed();
      // The kernel tells of the last close behind the close itself.
      for (let waited = 0; overlay.readers > 0 && waited < RELEASE_MS; waited += RELEASE_STEP_MS) {
        await setTimeout(RELEASE_STEP_MS);
      }
      if (overlay.readers > 0) {
        volume.overlays.show(snapshot.id, overlay);
        await this.#changed();
        const who = `${overlay.readers} open file${overlay.readers === 1 ? '' : 's'}`;
        throw new AsofError('OVERLAY_IN_USE', `the overlay of the snapshot ${snapshot.id} is in use: ${who}`);
      }
      await overlay.close();
      return this.#one(snapshot.id);
    });
  }

  /** Throws SNAPSHOT_UNKNOWN, and USAGE for the id of a group. */
  #one(id: string): SnapshotInfo {
    const [snapshot, second] = this.find(id);
    if (snapshot && !second) return snapshot;
    throw new AsofError('USAGE', 'an overlay is of one snapshot, not of a group', 'asof snapshot list');
  }

  /**
   * Of a snapshot that a lease has to itself: gives ranges back, and tells what is kept for it, as Volume.drain does. Start and
   * length alternate, in bytes. It waits for nobody: a backup must not stand behind another job's moment.
   */
  async drain(id: string, runs: Float64Array, limit: number): Promise<Float64Array> {
    const [snapshot] = findSnapshots(this.snapshots(), id);
    checkRuns(runs, snapshot!.size);
    return this.get(snapshot!.volumeId).drain(snapshot!.id, runs, limit);
  }

  /** A consumer has these ranges: they are no longer kept. Start and length in bytes alternate. */
  release(id: string, runs: Float64Array): Promise<SnapshotInfo> {
    return this.#next(async () => {
      const [snapshot, second] = this.find(id);
      if (!snapshot || second)
        throw new AsofError('USAGE', 'ranges are released of one snapshot, not of a group');
      if (snapshot.temporary) throw new AsofError('USAGE', `the snapshot ${snapshot.id} belongs to a lease`);
      checkRuns(runs, snapshot.size);
      await this.get(snapshot.volumeId).release(snapshot.id, runs);
      return snapshot;
    });
  }

  /**
   * What changed in the volume. Throws SNAPSHOT_UNKNOWN, CONSUMER_UNKNOWN, VOLUME_UNKNOWN or VOLUME_NOT_OPEN, and
   * SNAPSHOT_FAILED where `until` is no snapshot that can be read.
   */
  changes(name: string, query: ChangesQuery): { readonly since: string; readonly pieces: Changes } {
    const volume = this.get(name);
    volume.opened();
    const { since, consumer, until } = query;
    if ((since === undefined) === (consumer === undefined)) {
      throw new AsofError('USAGE', 'changes are since a snapshot or of a consumer, one of them');
    }
    const [snapshot] =
      since === undefined
        ? [volume.marker(consumer!).has]
        : since === 'added'
          ? [undefined]
          : findSnapshots(volume.epochs(), since);
    const [end] = until === undefined ? [undefined] : findSnapshots(volume.snapshots(), until);
    if (end && end.state !== 'live') {
      throw new AsofError('SNAPSHOT_FAILED', `the snapshot ${end.id} is ${end.state}: ${end.why}`);
    }
    if (end && snapshot && end.time < snapshot.time) {
      throw new AsofError('USAGE', `the snapshot ${end.id} is older than ${snapshot.id}`);
    }
    return { since: snapshot?.id ?? 'added', pieces: volume.changes(snapshot, end) };
  }

  /** From now on the consumer has that snapshot of the volume, deleted or not. Throws SNAPSHOT_UNKNOWN or USAGE. */
  mark(name: string, consumer: string, snapshot: string): Promise<MarkerInfo> {
    return this.#next(async () => {
      const volume = this.get(name);
      return volume.mark(consumer, findSnapshots(volume.epochs(), snapshot)[0]!);
    });
  }

  /** Throws CONSUMER_UNKNOWN. */
  unmark(name: string, consumer: string): Promise<MarkerInfo> {
    return this.#next(async () => this.get(name).unmark(consumer));
  }

  /** Throws VOLUME_NOT_OPEN. */
  activity(name: string): VolumeActivity {
    const volume = this.get(name);
    const counters = volume.activity();
    const past = this.#activityOf(volume);
    past.add(counters);
    return { counters, rates: past.rates(), forecast: past.forecast() };
  }

  /**
   * No job begins any more, and those under way end: what they wait for and what they run is ended, who holds is released,
   * after-commands have a little time.
   */
  stop(): void {
    if (this.#stopping.signal.aborted) return;
    this.#stopping.abort(new AsofError('DAEMON_MISSING', 'the daemon is being stopped'));
  }

  /** The clean stop of all. A second call does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.stop();
    await Promise.allSettled(this.#running);
    await this.#next(async () => {
      this.#closed = true;
      clearInterval(this.#sampler);
      await Promise.all(this.list().map(volume => volume.close()));
      this.#all.clear();
    });
  }

  #next<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#queue.then(() => {
      if (this.#closed) throw new AsofError('DAEMON_MISSING', 'the daemon is being stopped');
      return work();
    });
    this.#queue = done.catch(() => {});
    return done;
  }

  async #changed(): Promise<void> {
    await this.#options.changed?.();
  }

  /** Without symbolic links. Asked of the kernel on another thread, in case the path leads into our own mount. */
  async #canonical(path: string): Promise<string> {
    this.#refuseOwn(path);
    let real: string;
    try {
      real = await realpath(path);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOENT')
        throw new AsofError('NOT_FOUND', `${path} does not exist`, '', { cause: error });
      throw new AsofError('IO', `cannot open ${path}: ${errno || String(error)}`, '', { cause: error });
    }
    this.#refuseOwn(real);
    return real;
  }

  /** Before anything waits for it: a path that leads into our own mount would wait for ourselves. */
  async #checkFolder(path: string, code: 'STORE_UNUSABLE' | 'OVERLAY_UNUSABLE', as: string): Promise<void> {
    const folder = dirname(resolve(path));
    // The volume's own is made with it.
    if (folder.startsWith(`${this.#options.state.path}/volumes/`)) return;
    try {
      await this.#canonical(folder);
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
      const missing = error.code === 'NOT_FOUND';
      const why = missing ? `the folder ${folder} does not exist` : error.message;
      const hint = missing ? command`mkdir -p ${folder}` : '';
      throw new AsofError(code, `cannot use ${path} ${as}: ${why}`, hint, { cause: error });
    }
  }

  #refuseOwn(path: string): void {
    const { mountPoint } = this.#options;
    if (mountPoint === undefined || !`${resolve(path)}/`.startsWith(`${mountPoint}/`)) return;
    throw new AsofError('ORIGIN_UNUSABLE', `${path} lies in the daemon's own mount on ${mountPoint}`);
  }

  #activityOf(volume: Volume): Activity {
    let activity = this.#activity.get(volume);
    if (activity) return activity;
    activity = new Activity();
    this.#activity.set(volume, activity);
    return activity;
  }

  #sample(): void {
    this.#samples++;
    for (const volume of this.#all.values()) {
      if (volume.state !== 'open') continue;
      this.#activityOf(volume).add(volume.activity());
      if (this.#samples % LOOK_SAMPLES === 0) void volume.refresh();
    }
  }
}

/** Start and length alternate. Throws OUT_OF_RANGE. */
function checkRuns(runs: Float64Array, size: number): void {
  for (let i = 0; i < runs.length; i += 2) {
    const [start, length] = [runs[i]!, runs[i + 1] ?? Number.NaN];
    if (start >= 0 && length >= 0 && start + length <= size) continue;
    throw new AsofError(
      'OUT_OF_RANGE',
      `${length} bytes at offset ${start} do not lie within the volume's ${size} bytes`,
    );
  }
}

/** Why a group is not what it was; '' where it is. */
function groupTrouble({ groupSize: size }: SnapshotInfo, members: readonly SnapshotInfo[]): string {
  const lost = members
    .filter(({ state }) => state !== 'live' && state !== 'none')
    .map(({ volume, state }) => `that of ${volume} is ${state}`);
  const gone = size - members.length;
  if (gone > 0) lost.push(`${gone} of ${size} ${gone === 1 ? 'is' : 'are'} gone`);
  return lost.join(', ');
}

/** Members of a group go together: the id of one of several is not enough. Throws SNAPSHOT_GROUPED. */
function refuseMember(asked: string, meant: readonly SnapshotInfo[]): void {
  const [one, second] = meant;
  if (!one || second || one.groupSize < 2 || one.group.startsWith(asked.toLowerCase())) return;
  throw new AsofError(
    'SNAPSHOT_GROUPED',
    `the snapshot ${one.id} is one of ${one.groupSize} that are one moment; they go together`,
    `asof snapshot delete ${one.group} deletes all of them`,
  );
}
