/**
 * One volume: its files, its engine, its snapshots, and what is known of its past.
 *
 * States: adding → open → removed
 *                  open → broken   the origin or the store cannot be opened at a start; nothing is served
 *                         unknown  volume.json cannot be believed; nothing is served, nothing is touched
 *
 * What is on disk is changed in an order that leaves, whenever the daemon dies, either the state before or the one after:
 * a snapshot exists when the provider has it, recorded or not; a deletion is recorded before the provider is asked.
 * Distrust is made durable by the engine before the record of the origin that caused it is replaced.
 */
import { closeSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Overlay } from '../block/overlay.js';
import { AsofError, errnoOf } from '../errors.js';
import type { Logger } from '../log.js';
import {
  type CowActivity,
  type CowDurability,
  type CowEvent,
  type CowFound,
  loadAddon,
  type NativeLiveDisk,
} from '../native.js';
import { command } from '../shell.js';
import type { Consistency, MomentRecord } from './consistency.js';
import { type Marker, type MarkerInfo, markerInfo, markerOf, withMarker } from './consumer.js';
import { REGION_SIZE, type VolumeDefinition } from './definition.js';
import {
  bootId,
  type Constants,
  constantsOf,
  foreignWrite,
  type Identity,
  identityOf,
  replaced,
  writtenAfterDeath,
} from './identity.js';
import { Origin } from './origin.js';
import type { ProviderVolume, SnapshotDisk, SnapshotProvider, Taken } from './provider.js';
import { PROVIDERS, providerNamed } from './providers.js';
import {
  epochOf,
  freeMoment,
  type SnapshotEpoch,
  type SnapshotInfo,
  type SnapshotRecord,
  type SnapshotState,
} from './snapshot.js';
import { readState, writeState } from './state-file.js';
import { createStore, holderHint, openStore, removeStore } from './store.js';
import { messageOf } from './timeline.js';

export type VolumeState = 'adding' | 'open' | 'broken' | 'unknown' | 'removed';

/** volume.json: `added` is written when everything else is there. */
interface StoredDefinition {
  readonly added: boolean;
  readonly definition: VolumeDefinition;
}

/** state.json. */
interface StoredState {
  /** The origin as a clean stop left it; null while the daemon runs, and after it was killed. */
  readonly stopped: Identity | null;
  /** Of the last run. */
  readonly constants: Constants;
  readonly bootId: string;
  readonly snapshots: readonly SnapshotRecord[];
  readonly deleted: readonly SnapshotEpoch[];
  /** By name. */
  readonly consumers?: readonly Marker[];
}

/** What of it this file changes. */
interface Stored extends Pick<StoredState, 'snapshots' | 'deleted'> {
  readonly consumers: readonly Marker[];
}

const DEFINITION = 'volume';
const STATE = 'volume-state';
const MOMENT = 'moment';

/** Deleted snapshots whose epochs are kept: a consumer may ask for what changed since one. */
const EPOCHS_KEPT = 4096;

/** Bytes left in the store at which the low-water event comes: a tenth of the limit, or this. */
const LOW_WATER = 64 * 2 ** 20;

/** What is known of changes before now. */
export interface Tracking {
  /** `exact` to the chunk; `over` where a crash made regions count whole; `unknown` before the last start. */
  readonly state: 'exact' | 'over' | 'unknown';
  readonly why: string;
}

/** Runs that are asked of the engine at once: what an answer holds in memory, whatever the size of the volume. */
const RUNS_AT_ONCE = 8192;

/** What stands at the end of an answer. */
export interface ChangesEnd {
  /** How they were found: the tracker told, or nothing could, and everything counts as changed. */
  readonly method: 'tracked' | 'none';
  readonly exact: boolean;
  readonly why: string;
}

/** Runs, piece by piece: start and length in bytes alternate. They never hold less than what changed. */
export type Changes = AsyncGenerator<Float64Array, ChangesEnd, undefined>;

/** The live device as a mount shows it: one object for as long as the volume is open. */
export interface LiveDisk {
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly native: NativeLiveDisk;
}

/** Who wants to know what a volume tells by itself. */
export interface Watcher {
  readonly log: Logger;
  /** A snapshot whose disk is in use has become invalid: what was cached of it must be forgotten. */
  readonly invalid: (disk: SnapshotDisk) => void;
}

/** A snapshot that is recorded as deleted, and is there still. */
interface Forgotten {
  /** As if nothing had been: only before anything else happens to the volume. Throws IO. */
  readonly restore: () => void;
  /** Gives its space back. Throws SNAPSHOT_FAILED. */
  readonly reclaim: () => Promise<void>;
}

interface Opened extends ProviderVolume {
  readonly live: LiveDisk;
  readonly descriptors: readonly number[];
}

export class Volume {
  readonly definition: VolumeDefinition;
  readonly folder: string;
  #state: VolumeState;
  #why = '';
  #opened: Opened | undefined;
  #stored: Stored = { snapshots: [], deleted: [], consumers: [] };
  #tracking: Tracking = { state: 'exact', why: '' };
  #found: CowFound | undefined;
  /** Members of groups that nothing is recorded of: whether the group is whole shows when all volumes are there. */
  #loose: SnapshotRecord[] = [];
  readonly #disks = new Map<string, SnapshotDisk>();
  readonly #overlays = new Map<string, Overlay>();
  readonly #events: CowEvent[] = [];
  readonly #watcher: Watcher;

  private constructor(folder: string, definition: VolumeDefinition, state: VolumeState, watcher: Watcher) {
    this.folder = folder;
    this.definition = definition;
    this.#state = state;
    this.#watcher = watcher;
  }

  get name(): string {
    return this.definition.name;
  }

  get state(): VolumeState {
    return this.#state;
  }

  /** Why it is not open; '' where it is. */
  get why(): string {
    return this.#why;
  }

  get tracking(): Tracking {
    return this.#tracking;
  }

  /** What the engine found at the start. */
  get found(): CowFound | undefined {
    return this.#found;
  }

  /** What the engine has told since the start, newest last. */
  get events(): readonly CowEvent[] {
    return this.#events;
  }

  /** Makes everything that a new volume needs; where that fails, nothing of it is left. */
  static async add(
    folder: string,
    definition: Omit<VolumeDefinition, 'size' | 'sectorSize'>,
    watcher: Watcher,
  ): Promise<Volume> {
    const origin = Origin.open(definition.origin);
    let store: string | undefined;
    let volume: Volume | undefined;
    const descriptors: number[] = [];
    try {
      mkdirSync(folder, { mode: 0o700 });
      const whole = { ...definition, size: origin.size, sectorSize: origin.sectorSize };
      volume = new Volume(folder, whole, 'adding', watcher);
      writeState(join(folder, 'volume.json'), DEFINITION, { added: false, definition: whole });
      if (whole.store !== undefined) {
        descriptors.push(createStore(whole.store));
        store = whole.store;
      }
      descriptors.push(createStore(join(folder, 'tracker')));
      await volume.#openEngine(origin, descriptors, true);
      volume.#save(null);
      writeState(join(folder, 'volume.json'), DEFINITION, { added: true, definition: whole });
      volume.#state = 'open';
      return volume;
    } catch (error) {
      if (volume) volume.#opened?.native.abandon();
      for (const fd of descriptors) closeSync(fd);
      origin.close();
      if (store !== undefined) removeStore(store);
      rmSync(folder, { recursive: true, force: true });
      throw engineError(error, definition.name);
    }
  }

  /**
   * What a folder of the state directory holds. Never throws: what cannot be opened says why. undefined where an adding
   * was interrupted, of which nothing is left then.
   */
  static async open(
    folder: string,
    id: string,
    lastAlive: Date | undefined,
    watcher: Watcher,
  ): Promise<Volume | undefined> {
    const read = readState<StoredDefinition>(join(folder, 'volume.json'), DEFINITION);
    if ('trouble' in read) {
      const nobody = { id, name: id, origin: '', size: 0, sectorSize: 512, chunkSize: 0, added: 0 } as const;
      const rest = {
        durability: 'power',
        onCowError: 'break-snapshot',
        cowTimeoutMs: 0,
        storeLimit: 0,
      } as const;
      const volume = new Volume(folder, { ...nobody, ...rest }, 'unknown', watcher);
      volume.#why = read.trouble;
      return volume;
    }
    const { added, definition } = read.body;
    const volume = new Volume(folder, definition, 'adding', watcher);
    if (!added) {
      try {
        volume.#removeFiles();
      } catch (error) {
        // It is no volume; the next start tries again.
        watcher.log.error({ volume: definition.name, err: error }, 'what is left of it cannot be removed');
      }
      return undefined;
    }
    try {
      await volume.#start(lastAlive);
      volume.#state = 'open';
    } catch (error) {
      volume.#state = 'broken';
      volume.#why = error instanceof AsofError ? error.message : String(error);
      watcher.log.error({ volume: definition.name, err: error }, 'the volume cannot be opened');
    }
    return volume;
  }

  async #start(lastAlive: Date | undefined): Promise<void> {
    const { definition, folder } = this;
    const read = readState<StoredState>(join(folder, 'state.json'), STATE);
    if (!('trouble' in read)) {
      const { snapshots, deleted, consumers = [] } = read.body;
      this.#stored = { snapshots, deleted, consumers };
    }
    const origin = Origin.open(definition.origin);
    const descriptors: number[] = [];
    try {
      if (origin.size < definition.size) {
        throw new AsofError(
          'ORIGIN_UNUSABLE',
          `${origin.path} had ${definition.size} bytes, and has ${origin.size}`,
        );
      }
      const distrust =
        'trouble' in read
          ? read.trouble
          : suspicion(read.body, identityOf(origin), lastAlive, definition.durability);
      if (definition.store !== undefined) descriptors.push(openStore(definition.store));
      descriptors.push(openStore(join(folder, 'tracker')));
      const found = await this.#openEngine(origin, descriptors, false);
      if (distrust !== undefined) {
        await this.#opened!.native.distrust(distrust);
        this.#watcher.log.warn(
          { volume: definition.name, why: distrust },
          'changes before this start are unknown',
        );
      }
      this.#tracking = trackingOf(distrust, found);
      await this.#reconcile(distrust, !('trouble' in read));
      this.#sweepMoments();
      if (this.#tracking.state === 'unknown') this.#loseEpochs(this.#tracking.why);
      this.#save(null);
    } catch (error) {
      this.#opened?.native.abandon();
      this.#opened = undefined;
      this.#loose = [];
      for (const fd of descriptors) closeSync(fd);
      origin.close();
      throw engineError(error, definition.name);
    }
  }

  async #openEngine(origin: Origin, descriptors: readonly number[], create: boolean): Promise<CowFound> {
    const { definition, folder } = this;
    const { id, size, sectorSize, chunkSize, durability, onCowError, cowTimeoutMs, storeLimit } = definition;
    const [first, second] = descriptors;
    const { volume: native, found } = await loadAddon().CowVolume.open({
      volume: id,
      size,
      sectorSize,
      chunkSize,
      regionSize: Math.max(REGION_SIZE, chunkSize),
      durability,
      onError: onCowError,
      timeoutMs: cowTimeoutMs,
      limit: storeLimit,
      lowWater: storeLimit > 0 ? Math.floor(storeLimit / 10) : LOW_WATER,
      create,
      leastEpoch: this.#leastEpoch(),
      bootId: bootId(),
      origin: origin.fd,
      store: second === undefined ? null : first!,
      tracker: second ?? first!,
      event: event => this.#told(event),
    });
    this.#found = found;
    this.#opened = {
      definition,
      folder,
      origin,
      native,
      live: { size, sectorSize, native: native.live() },
      descriptors,
    };
    return found;
  }

  /** Above every epoch that is on record. */
  #leastEpoch(): number {
    const { snapshots, deleted, consumers } = this.#stored;
    const all = [...snapshots, ...deleted, ...consumers.map(one => one.has)];
    return all.reduce((most, { epoch }) => Math.max(most, epoch + 1), 0);
  }

  /** Brings records and providers together: deletions are finished, what was never recorded is. */
  async #reconcile(distrust: string | undefined, recorded: boolean): Promise<void> {
    const opened = this.#require();
    const { deleted } = this.#stored;
    let snapshots = this.#stored.snapshots.map(record => {
      const { independent } = providerNamed(record.provider).can;
      const lost = distrust !== undefined && !independent && record.state === 'live';
      return lost ? { ...record, state: 'unknown' as const, why: distrust } : record;
    });
    for (const provider of PROVIDERS) {
      for (const found of provider.list(opened)) {
        if (deleted.some(one => one.id === found.id)) {
          await provider.delete(opened, found);
        } else if (!snapshots.some(one => one.id === found.id)) {
          const lost = distrust !== undefined && !provider.can.independent;
          const state = lost ? ('unknown' as const) : ('live' as const);
          const record = recordOf(provider, found, found, this.#moment(found.time, snapshots));
          const one = { ...record, state, why: distrust ?? '' };
          if (recorded && one.groupSize > 1) this.#loose.push(one);
          else snapshots = [...snapshots, one];
        }
      }
    }
    this.#stored = { ...this.#stored, snapshots: snapshots.sort((a, b) => a.time - b.time) };
  }

  /**
   * What changed since any moment of before is unknown, for good. The engine knows as well, but keeps the last reason only.
   */
  #loseEpochs(why: string): void {
    const lose = <T extends SnapshotEpoch>(one: T): T => ({ ...one, lost: one.lost ?? why });
    const { snapshots, deleted, consumers } = this.#stored;
    this.#stored = {
      snapshots: snapshots.map(lose),
      deleted: deleted.map(lose),
      consumers: consumers.map(one => ({ ...one, has: lose(one.has) })),
    };
  }

  get loose(): readonly SnapshotRecord[] {
    return this.#loose;
  }

  /**
   * Takes up the loose members of groups that are `whole`. The others are of a snapshot that a power cut met while it was
   * taken: nobody was told of it, and it is no moment of all its volumes. They go.
   */
  async settle(whole: (one: SnapshotRecord) => boolean): Promise<void> {
    const loose = this.#loose.splice(0);
    if (loose.length === 0) return;
    const opened = this.#require();
    let { snapshots } = this.#stored;
    for (const one of loose) {
      if (whole(one)) {
        const lost = this.#tracking.state === 'unknown' ? { lost: this.#tracking.why } : {};
        snapshots = [...snapshots, { ...one, ...lost, moment: this.#moment(one.time, snapshots) }];
        continue;
      }
      this.#watcher.log.warn(
        { volume: this.name, group: one.group },
        'a snapshot of a group was cut short; it is gone',
      );
      try {
        await providerNamed(one.provider).delete(opened, one);
      } catch (error) {
        // It is shown nowhere; the next start tries again.
        this.#watcher.log.error({ volume: this.name, group: one.group, err: error }, 'it cannot be deleted');
      }
    }
    this.#stored = { ...this.#stored, snapshots: [...snapshots].sort((a, b) => a.time - b.time) };
    this.#save(null);
  }

  #moment(time: number, taken: readonly SnapshotRecord[]): string {
    return freeMoment(
      time,
      taken.map(one => one.moment),
    );
  }

  #told(event: CowEvent): void {
    this.#events.push(event);
    if (this.#events.length > 100) this.#events.shift();
    this.#watcher.log.warn({ volume: this.name, event }, event.why || event.kind);
    if (event.kind !== 'broken') return;
    const disk = this.#disks.get(event.snapshot);
    if (disk) this.#watcher.invalid(disk);
  }

  #require(): Opened {
    if (this.#opened && this.#state !== 'removed') return this.#opened;
    throw new AsofError(
      'VOLUME_NOT_OPEN',
      `the volume ${this.name} is not open: ${this.#why || this.#state}`,
      command`asof volume show ${this.name}`,
    );
  }

  #save(stopped: Identity | null, stored = this.#stored): void {
    const { origin } = this.#require();
    const body: StoredState = { stopped, constants: constantsOf(origin), bootId: bootId(), ...stored };
    writeState(join(this.folder, 'state.json'), STATE, body);
  }

  /** Durable first, then known: where it cannot be written, nothing has changed. Throws IO. */
  #keep(change: Partial<Stored>): void {
    const stored = { ...this.#stored, ...change };
    this.#save(null, stored);
    this.#stored = stored;
  }

  /** For providers and the mount. Throws VOLUME_NOT_OPEN. */
  opened(): ProviderVolume & { readonly live: LiveDisk } {
    return this.#require();
  }

  activity(): CowActivity {
    return this.#require().native.activity();
  }

  /** The new snapshot of a group that `provider` has just taken. */
  record(
    provider: SnapshotProvider,
    taken: Taken,
    group: string,
    groupSize: number,
    id: string,
    epoch: number,
    moment?: MomentRecord,
  ): SnapshotInfo {
    // Before the snapshot itself: one of which nothing is known yet leaves a file that the next start clears away.
    if (moment) this.#writeMoment(id, moment);
    const name = this.#moment(taken.time, this.#stored.snapshots);
    const consistency = moment?.consistency ?? 'crash';
    const record = {
      ...recordOf(provider, { id, group, groupSize, epoch }, taken, name, consistency),
      ...(moment && moment.marks.length > 0 ? { marks: moment.marks } : {}),
    };
    this.#keep({ snapshots: [...this.#stored.snapshots, record] });
    return this.#infos([record])[0]!;
  }

  /** How the snapshot came about; undefined where that is not known. */
  momentRecord(id: string): MomentRecord | undefined {
    const read = readState<MomentRecord>(this.#momentFile(id), MOMENT);
    return 'trouble' in read ? undefined : read.body;
  }

  /** What came after the snapshot was there: the rest of its job. */
  amend(id: string, moment: MomentRecord): void {
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) return;
    this.#writeMoment(id, moment);
    if (moment.marks.length === 0) return;
    const snapshots = this.#stored.snapshots.map(one =>
      one === record ? { ...record, marks: moment.marks } : one,
    );
    this.#keep({ snapshots });
  }

  #momentFile(id: string): string {
    return join(this.folder, 'moments', `${id}.json`);
  }

  #writeMoment(id: string, moment: MomentRecord): void {
    mkdirSync(join(this.folder, 'moments'), { recursive: true, mode: 0o700 });
    writeState(this.#momentFile(id), MOMENT, moment);
  }

  /** Of snapshots that are not there: deleted ones, and those of a job that died. */
  #sweepMoments(): void {
    const folder = join(this.folder, 'moments');
    if (!existsSync(folder)) return;
    const known = new Set(this.#stored.snapshots.map(({ id }) => `${id}.json`));
    for (const name of readdirSync(folder)) if (!known.has(name)) rmSync(join(folder, name));
  }

  /** Oldest first. */
  snapshots(): SnapshotInfo[] {
    return this.#infos(this.#stored.snapshots);
  }

  #infos(records: readonly SnapshotRecord[]): SnapshotInfo[] {
    const { id: volumeId, name: volume, size, sectorSize } = this.definition;
    const lookups = new Map<string, ReturnType<SnapshotProvider['states']>>();
    const stateOf = (record: SnapshotRecord): { readonly state: SnapshotState; readonly why: string } => {
      if (record.state !== 'live') return record;
      if (!this.#opened) return { state: 'unknown', why: `the volume is not open: ${this.#why}` };
      let lookup = lookups.get(record.provider);
      if (!lookup) {
        lookup = providerNamed(record.provider).states(this.#opened);
        lookups.set(record.provider, lookup);
      }
      return lookup(record.id);
    };
    return records.map(({ lost: _, ...record }) => {
      const { state, why } = stateOf(record);
      const at = new Date(record.time).toISOString();
      const overlay = this.#overlays.get(record.id)?.info() ?? null;
      return { ...record, state, why, volume, volumeId, at, size, sectorSize, overlay };
    });
  }

  /** The disk of a snapshot: one object, however often it is asked for. Throws VOLUME_NOT_OPEN. */
  disk(id: string): SnapshotDisk {
    let disk = this.#disks.get(id);
    if (disk) return disk;
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) throw new AsofError('SNAPSHOT_UNKNOWN', `the volume ${this.name} has no snapshot ${id}`);
    disk = providerNamed(record.provider).open(this.#require(), record);
    this.#disks.set(id, disk);
    return disk;
  }

  /** The writable view of a snapshot, where it has one. */
  overlay(id: string): Overlay | undefined {
    return this.#overlays.get(id);
  }

  /**
   * Lays a writable view over a snapshot, with its layer in the file `path`, or one that is thrown away at the drop or the
   * stop. Throws OVERLAY_UNUSABLE, and OVERLAY_IN_USE where there is one.
   */
  async addOverlay(id: string, path: string | undefined): Promise<Overlay> {
    if (this.#overlays.has(id)) {
      throw new AsofError(
        'OVERLAY_IN_USE',
        `the snapshot ${id} has an overlay already`,
        `asof snapshot overlay ${id} --drop`,
      );
    }
    const { size, native } = this.disk(id);
    const identity = `snapshot ${id} of volume ${this.definition.id}`;
    const label = `the snapshot ${id} of the volume ${this.name}`;
    const place = path === undefined ? { scratch: this.folder } : { path };
    const overlay = await Overlay.open({ size, native, identity, label }, place);
    this.#overlays.set(id, overlay);
    return overlay;
  }

  /** Takes it out of what is shown; the caller closes it, or gives it back. */
  hideOverlay(id: string): void {
    this.#overlays.delete(id);
  }

  showOverlay(id: string, overlay: Overlay): void {
    this.#overlays.set(id, overlay);
  }

  async #closeOverlays(): Promise<void> {
    for (const overlay of this.#overlays.values()) {
      await overlay.close().catch(error => {
        this.#watcher.log.error({ volume: this.name, err: error }, 'an overlay is not whole in its layer');
      });
    }
    this.#overlays.clear();
  }

  /** Throws OVERLAY_IN_USE where the snapshot has an overlay: then it cannot be deleted. */
  refuseOverlay(id: string): void {
    if (!this.#overlays.has(id)) return;
    throw new AsofError(
      'OVERLAY_IN_USE',
      `the snapshot ${id} of the volume ${this.name} has an overlay`,
      `asof snapshot overlay ${id} --drop, then delete it`,
    );
  }

  /** Throws SNAPSHOT_FAILED, and IO where it cannot be recorded: then nothing has changed. */
  async delete(id: string): Promise<void> {
    await this.forget(id)?.reclaim();
  }

  /** Records that it is deleted: from then on it is nobody's. undefined where there is none. Throws IO. */
  forget(id: string): Forgotten | undefined {
    const opened = this.#require();
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) return undefined;
    this.refuseOverlay(id);
    const before = this.#stored;
    const deleted = [...before.deleted, epochOf(record)].slice(-EPOCHS_KEPT);
    this.#keep({ snapshots: before.snapshots.filter(one => one !== record), deleted });
    return {
      restore: () => this.#keep({ snapshots: before.snapshots, deleted: before.deleted }),
      reclaim: async () => {
        this.#disks.get(id)?.close();
        this.#disks.delete(id);
        rmSync(this.#momentFile(id), { force: true });
        try {
          await providerNamed(record.provider).delete(opened, record);
        } catch (error) {
          const message = `the snapshot ${id} is deleted, but its space is not free yet: ${errnoOf(error)}`;
          throw new AsofError('SNAPSHOT_FAILED', message, '', { cause: error });
        }
      },
    };
  }

  /** Throws SNAPSHOT_FAILED where somebody reads it, or where its provider cannot. */
  async release(id: string, runs: Float64Array): Promise<void> {
    const opened = this.#require();
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) throw new AsofError('SNAPSHOT_UNKNOWN', `the volume ${this.name} has no snapshot ${id}`);
    try {
      await providerNamed(record.provider).release(opened, record, runs, 0);
    } catch (error) {
      const busy = errnoOf(error) === 'EBUSY';
      const why = busy ? 'another reader needs it' : error instanceof Error ? error.message : String(error);
      throw new AsofError('SNAPSHOT_FAILED', `nothing of the snapshot ${id} is released: ${why}`, '', {
        cause: error,
      });
    }
  }

  /** What may be asked for by `--since`: snapshots, deleted ones too. */
  epochs(): readonly SnapshotEpoch[] {
    return [...this.#stored.snapshots, ...this.#stored.deleted];
  }

  /** By name. */
  consumers(): MarkerInfo[] {
    return this.#stored.consumers.map(markerInfo);
  }

  /** What the consumer has. Throws CONSUMER_UNKNOWN. */
  marker(consumer: string): Marker {
    return markerOf(this.#stored.consumers, consumer, this.name);
  }

  /** From now on the consumer has that moment: durable when it returns. Throws USAGE. */
  mark(consumer: string, has: SnapshotEpoch): MarkerInfo {
    this.#require();
    const marker = { consumer, has: epochOf(has), marked: Date.now() };
    this.#keep({ consumers: withMarker(this.#stored.consumers, marker) });
    return markerInfo(marker);
  }

  /** Throws CONSUMER_UNKNOWN. */
  unmark(consumer: string): MarkerInfo {
    this.#require();
    const marker = this.marker(consumer);
    const consumers = this.#stored.consumers.filter(one => one !== marker);
    this.#keep({ consumers });
    return markerInfo(marker);
  }

  /**
   * What was written since `since` (undefined: since the volume was added), up to the snapshot `until` (undefined: up to
   * now). `until` is one of this volume that is live.
   */
  async *changes(since: SnapshotEpoch | undefined, until: SnapshotInfo | undefined): Changes {
    const { native } = this.#require();
    const { size } = this.definition;
    const rough = [since, until].find(one => one !== undefined && !providerNamed(one.provider).can.tracked);
    const why = new Set<string>();
    if (rough) {
      why.add(
        `a snapshot of ${rough.provider} does not split what was written before it from what came after`,
      );
    }
    if (since?.lost !== undefined) {
      yield Float64Array.of(0, size);
      return { method: 'none', exact: false, why: since.lost };
    }
    // A snapshot that closed no epoch lies somewhere in it: what was written before or after in it counts as well.
    const from = since === undefined ? 0 : rough === since ? Math.max(0, since.epoch - 1) : since.epoch;
    const to = until === undefined || !providerNamed(until.provider).can.tracked ? 0 : until.epoch;
    let exact = rough === undefined;
    if (until && native.snapshots().some(one => one.id === until.id && one.releasedChunks > 0)) {
      exact = false;
      why.add(`what was released of the snapshot ${until.id} counts as changed where it was written later`);
    }
    let everything = false;
    // A run may go on in the next piece.
    let open: [start: number, length: number] | undefined;
    for (let at = 0; at < size; ) {
      const piece = await native.changes(from, to, at, RUNS_AT_ONCE);
      if (piece.why !== '') why.add(piece.why);
      if (!piece.exact) exact = false;
      const { runs } = piece;
      if (at === 0) everything = !piece.exact && runs.length === 2 && runs[0] === 0 && runs[1] === size;
      at = piece.next;
      if (runs.length === 0) continue;
      if (open && open[0] + open[1] === runs[0]) {
        runs[0] = open[0];
        runs[1]! += open[1];
      } else if (open) yield Float64Array.from(open);
      open = [runs.at(-2)!, runs.at(-1)!];
      if (runs.length > 2) yield runs.subarray(0, -2);
    }
    if (open) yield Float64Array.from(open);
    return { method: everything ? 'none' : 'tracked', exact, why: [...why].join('; ') };
  }

  /** The clean stop. Never throws: what could not be recorded is unknown at the next start. */
  async close(): Promise<void> {
    const opened = this.#opened;
    if (!opened) return;
    await this.#closeOverlays();
    for (const disk of this.#disks.values()) disk.close();
    this.#disks.clear();
    try {
      opened.live.native.close();
      await opened.native.close();
      this.#save(identityOf(opened.origin));
    } catch (error) {
      this.#watcher.log.error(
        { volume: this.name, err: error },
        'no clean stop: what changed will be over-reported',
      );
    }
    this.#letGo(opened);
  }

  #letGo(opened: Opened): void {
    this.#opened = undefined;
    for (const fd of opened.descriptors) closeSync(fd);
    opened.origin.close();
  }

  /**
   * Nothing of it is left but the origin, as it is now. Throws IO where that cannot be recorded: then nothing has changed;
   * and where the origin could not be flushed: then it is broken, and can still be removed.
   */
  async remove(): Promise<void> {
    const opened = this.#opened;
    if (opened) {
      const { snapshots, deleted } = this.#stored;
      this.#keep({ snapshots: [], deleted: [...deleted, ...snapshots.map(epochOf)].slice(-EPOCHS_KEPT) });
      await this.#closeOverlays();
      for (const disk of this.#disks.values()) disk.close();
      this.#disks.clear();
      for (const record of snapshots) {
        try {
          await providerNamed(record.provider).delete(opened, record);
        } catch (error) {
          // What lies in the store goes with it.
          this.#watcher.log.error({ volume: this.name, id: record.id, err: error }, 'its space is not free');
        }
      }
      opened.live.native.close();
      try {
        await opened.native.close();
      } catch (error) {
        this.#state = 'broken';
        this.#why = `its end was not clean: ${messageOf(error)}`;
        throw new AsofError('IO', `the volume ${this.name} is not removed: ${this.#why}`, '', {
          cause: error,
        });
      } finally {
        this.#letGo(opened);
      }
    }
    this.#removeFiles();
    this.#state = 'removed';
  }

  #removeFiles(): void {
    const { store } = this.definition;
    // First what makes it a volume: without it the rest is garbage that the next start clears away.
    writeState(join(this.folder, 'volume.json'), DEFINITION, { added: false, definition: this.definition });
    if (store !== undefined) removeStore(store);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function suspicion(
  stored: StoredState,
  now: Identity,
  lastAlive: Date | undefined,
  durability: CowDurability,
): string | undefined {
  if (stored.stopped) return foreignWrite(stored.stopped, now);
  // What the tracker noted was never synced, and may not have reached the disk before what it was noted for.
  if (durability === 'process' && stored.bootId !== now.bootId)
    return 'the machine stopped while the volume was in use, and the durability `process` does not outlast that';
  const sameBoot = stored.bootId === now.bootId;
  return replaced(stored.constants, now, sameBoot) ?? writtenAfterDeath(now, stored.bootId, lastAlive);
}

function trackingOf(distrust: string | undefined, found: CowFound): Tracking {
  const why = distrust ?? found.tracking;
  if (why !== '') return { state: 'unknown', why };
  if (found.clean) return { state: 'exact', why: '' };
  return {
    state: 'over',
    why: 'the daemon was not stopped cleanly: regions written before count as changed whole',
  };
}

function recordOf(
  provider: SnapshotProvider,
  { id, group, groupSize, epoch }: Pick<SnapshotRecord, 'id' | 'group' | 'groupSize' | 'epoch'>,
  { time, holdNs, switchNs }: Pick<Taken, 'time' | 'holdNs' | 'switchNs'>,
  moment: string,
  consistency: Consistency = 'crash',
): SnapshotRecord {
  const state = 'live';
  return {
    id,
    group,
    groupSize,
    provider: provider.name,
    time,
    moment,
    consistency,
    holdNs,
    switchNs,
    epoch,
    state,
    why: '',
  };
}

/** What the engine rejects with, in words. */
function engineError(error: unknown, name: string): unknown {
  if (error instanceof AsofError || errnoOf(error) === '') return error;
  const why = error instanceof Error ? error.message : String(error);
  return new AsofError(
    'STORE_UNUSABLE',
    `the volume ${name} cannot be opened: ${why} (${errnoOf(error)})`,
    errnoOf(error) === 'EBUSY' ? holderHint(why) : '',
    { cause: error },
  );
}
