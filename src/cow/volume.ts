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
 *
 * It is long since that order is one argument, which would be lost over several files.
 */
import { closeSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import type { Logger } from '../log.js';
import type { CowActivity, CowEvent, CowFound, NativeLiveDisk } from '../native.js';
import { command } from '../shell.js';
import { type Changes, changedBetween } from './changed.js';
import type { MomentRecord, Worth } from './consistency.js';
import { type Marker, type MarkerInfo, markerInfo, markerOf, withMarker } from './consumer.js';
import { unknownDefinition, type VolumeDefinition } from './definition.js';
import { engineError, openEngine } from './engine.js';
import { bootId, constantsOf, type Identity, identityOf } from './identity.js';
import { Moments } from './moments.js';
import { Origin } from './origin.js';
import { Overlays } from './overlays.js';
import { suspicion, type Tracking, trackingOf } from './past.js';
import type { ProviderVolume, SnapshotDisk, SnapshotProvider, Taken } from './provider.js';
import { PROVIDERS, providerNamed } from './providers.js';
import {
  DEFINITION,
  leastEpochOf,
  momentOf,
  recordOf,
  STATE,
  type Stored,
  type StoredDefinition,
  type StoredState,
  statesOf,
  withEpochs,
  withoutPast,
} from './records.js';
import { epochOf, type SnapshotEpoch, type SnapshotInfo, type SnapshotRecord } from './snapshot.js';
import { readState, writeState } from './state-file.js';
import { createStore, openStore, removeStore } from './store.js';
import { messageOf } from './timeline.js';

/** More files than can be open on a snapshot: its owner knows that those who read it meet errors. */
const ANY_READERS = 2 ** 20;

export type VolumeState = 'adding' | 'open' | 'broken' | 'unknown' | 'removed';

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
  readonly #overlays: Overlays;
  readonly #moments: Moments;
  readonly #events: CowEvent[] = [];
  readonly #watcher: Watcher;
  #lvmSize: number | undefined;

  private constructor(folder: string, definition: VolumeDefinition, state: VolumeState, watcher: Watcher) {
    this.folder = folder;
    this.definition = definition;
    this.#state = state;
    this.#watcher = watcher;
    this.#overlays = new Overlays(definition, folder, watcher.log);
    this.#moments = new Moments(folder);
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
   * was interrupted, of which nothing is left then. `unwanted`: ids of snapshots that go where nothing is recorded of them.
   */
  static async open(
    folder: string,
    id: string,
    lastAlive: Date | undefined,
    watcher: Watcher,
    unwanted: ReadonlySet<string> = new Set(),
  ): Promise<Volume | undefined> {
    const read = readState<StoredDefinition>(join(folder, 'volume.json'), DEFINITION);
    if ('trouble' in read) {
      const volume = new Volume(folder, unknownDefinition(id), 'unknown', watcher);
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
      await volume.#start(lastAlive, unwanted);
      volume.#state = 'open';
    } catch (error) {
      volume.#state = 'broken';
      volume.#why = error instanceof AsofError ? error.message : String(error);
      watcher.log.error({ volume: definition.name, err: error }, 'the volume cannot be opened');
    }
    return volume;
  }

  async #start(lastAlive: Date | undefined, unwanted: ReadonlySet<string>): Promise<void> {
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
      await this.#reconcile(distrust, !('trouble' in read), unwanted);
      this.#moments.sweep([...this.#stored.snapshots, ...this.#loose].map(({ id }) => id));
      if (this.#tracking.state === 'unknown') this.#stored = withoutPast(this.#stored, this.#tracking.why);
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
    const { size, sectorSize } = definition;
    const { volume: native, found } = await openEngine(definition, origin, descriptors, {
      create,
      leastEpoch: leastEpochOf(this.#stored),
      event: event => this.#told(event),
    });
    this.#found = found;
    const live = { size, sectorSize, native: native.live() };
    this.#opened = { definition, folder, origin, native, live, descriptors, lvmSize: this.#lvmSize };
    return found;
  }

  /** Brings records and providers together: deletions are finished, what was never recorded is. */
  async #reconcile(
    distrust: string | undefined,
    recorded: boolean,
    unwanted: ReadonlySet<string>,
  ): Promise<void> {
    const opened = this.#require();
    // What a lease had to itself is nobody's without it.
    const temporary = this.#stored.snapshots.filter(one => one.temporary);
    const deleted = withEpochs(this.#stored.deleted, temporary);
    const kept = this.#stored.snapshots.filter(one => !one.temporary);
    let snapshots = kept.map(record => {
      const { independent } = providerNamed(record.provider).can;
      const lost = distrust !== undefined && !independent && record.state === 'live';
      return lost ? { ...record, state: 'unknown' as const, why: distrust } : record;
    });
    for (const provider of PROVIDERS) {
      for (const found of await provider.list(opened)) {
        if (deleted.some(one => one.id === found.id) || this.#moments.isTemporary(found.id)) {
          await provider.delete(opened, found);
        } else if (unwanted.has(found.id) && !snapshots.some(one => one.id === found.id)) {
          this.#watcher.log.warn(
            { volume: this.name, id: found.id },
            'what a job left that was never finished goes',
          );
          await provider.delete(opened, found).catch((error: unknown) => {
            // It is shown nowhere; the next start tries again.
            this.#watcher.log.error({ volume: this.name, id: found.id, err: error }, 'it cannot be deleted');
          });
        } else if (!snapshots.some(one => one.id === found.id)) {
          const lost = distrust !== undefined && !provider.can.independent;
          const state = lost ? ('unknown' as const) : ('live' as const);
          // Written just before the record was to be: what it says was seen to the end.
          const known = this.#moments.read(found.id);
          const moment = momentOf(found.time, { snapshots });
          const record = recordOf(provider, found, found, moment, known?.consistency, known?.marks);
          const one = { ...record, state, why: distrust ?? '' };
          if (recorded && one.groupSize > 1) this.#loose.push(one);
          else snapshots = [...snapshots, one];
        }
      }
    }
    this.#stored = { ...this.#stored, deleted, snapshots: snapshots.sort((a, b) => a.time - b.time) };
  }

  /** Those of `ids` that providers still have. */
  async holds(ids: readonly string[]): Promise<string[]> {
    const opened = this.#require();
    const found = await Promise.all(PROVIDERS.map(async provider => provider.list(opened)));
    return ids.filter(id => found.flat().some(one => one.id === id));
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
        snapshots = [...snapshots, { ...one, ...lost, moment: momentOf(one.time, { snapshots }) }];
        continue;
      }
      this.#watcher.log.warn(
        { volume: this.name, group: one.group },
        'a snapshot of a group was cut short; it is gone',
      );
      try {
        this.#moments.remove(one.id);
        await providerNamed(one.provider).delete(opened, one);
      } catch (error) {
        // It is shown nowhere; the next start tries again.
        this.#watcher.log.error({ volume: this.name, group: one.group, err: error }, 'it cannot be deleted');
      }
    }
    this.#keep({ snapshots: [...snapshots].sort((a, b) => a.time - b.time) });
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
    taken: Pick<Taken, 'time' | 'holdNs' | 'switchNs'>,
    part: Pick<SnapshotRecord, 'id' | 'group' | 'groupSize' | 'epoch'>,
    consistency?: Worth,
    marks?: readonly string[],
    temporary = false,
  ): SnapshotInfo {
    const name = momentOf(taken.time, this.#stored);
    const record = recordOf(provider, part, taken, name, consistency, marks, temporary);
    this.#keep({ snapshots: [...this.#stored.snapshots, record] });
    return this.#infos([record])[0]!;
  }

  /**
   * How a snapshot came about, before it is recorded itself: one that then is not leaves a file that the next start clears
   * away. Throws IO.
   */
  note(id: string, moment: MomentRecord): void {
    this.#moments.write(id, moment);
  }

  /** How the snapshot came about; undefined where that is not known. */
  momentRecord(id: string): MomentRecord | undefined {
    return this.#moments.read(id);
  }

  /** What came after the snapshot was there: the rest of its job. */
  amend(id: string, moment: MomentRecord): void {
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) return;
    this.#moments.write(id, moment);
    if (moment.marks.length === 0) return;
    const snapshots = this.#stored.snapshots.map(one =>
      one === record ? { ...record, marks: moment.marks } : one,
    );
    this.#keep({ snapshots });
  }

  /** Oldest first. */
  snapshots(): SnapshotInfo[] {
    return this.#infos(this.#stored.snapshots);
  }

  #infos(records: readonly SnapshotRecord[]): SnapshotInfo[] {
    const state = this.#opened ? statesOf(this.#opened) : undefined;
    const shut = { state: 'unknown' as const, why: `the volume is not open: ${this.#why}` };
    const { id: volumeId, name: volume, size, sectorSize } = this.definition;
    return records.map(({ lost: _, ...record }) => {
      const told = record.state === 'live' ? (state?.(record) ?? shut) : record;
      const at = new Date(record.time).toISOString();
      const overlay = this.#overlays.get(record.id)?.info() ?? null;
      const { state: is, why } = told;
      return { ...record, state: is, why, volume, volumeId, at, size, sectorSize, groupWhy: '', overlay };
    });
  }

  /** Lets providers that must be asked look at the snapshots of theirs. Never rejects. */
  async refresh(): Promise<void> {
    const opened = this.#opened;
    if (!opened) return;
    const names = new Set(this.#stored.snapshots.map(({ provider }) => provider));
    for (const name of names) await providerNamed(name).refresh?.(opened);
  }

  /** What a thick snapshot of lvm2 takes, in bytes; from now on. */
  set lvmSize(bytes: number | undefined) {
    this.#lvmSize = bytes;
    if (this.#opened) this.#opened = { ...this.#opened, lvmSize: bytes };
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

  /** Of its snapshots. */
  get overlays(): Overlays {
    return this.#overlays;
  }

  /** Lays a writable view over a snapshot. Throws what Overlays.add throws, and SNAPSHOT_UNKNOWN. */
  async addOverlay(id: string, path: string | undefined): Promise<void> {
    await this.#overlays.add(this.disk(id), id, path);
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
    this.#overlays.refuse(id);
    const before = this.#stored;
    const deleted = withEpochs(before.deleted, [record]);
    this.#keep({ snapshots: before.snapshots.filter(one => one !== record), deleted });
    return {
      restore: () => this.#keep({ snapshots: before.snapshots, deleted: before.deleted }),
      reclaim: async () => {
        this.#disks.get(id)?.close();
        this.#disks.delete(id);
        this.#moments.remove(id);
        try {
          await providerNamed(record.provider).delete(opened, record);
        } catch (error) {
          const why = errnoOf(error) || messageOf(error);
          const message = `the snapshot ${id} is deleted, but its space is not free yet: ${why}`;
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

  /** Whether `drain` can be asked for the snapshot. Throws SNAPSHOT_UNKNOWN. */
  drains(id: string): boolean {
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) throw new AsofError('SNAPSHOT_UNKNOWN', `the volume ${this.name} has no snapshot ${id}`);
    const provider = providerNamed(record.provider);
    return provider.can.release && provider.preserved !== undefined;
  }

  /**
   * Of a temporary snapshot: gives `runs` back, whoever reads it, and tells what is kept for it. Throws SNAPSHOT_UNKNOWN or
   * SNAPSHOT_FAILED.
   */
  async drain(id: string, runs: Float64Array, limit: number): Promise<Float64Array> {
    const opened = this.#require();
    const record = this.#stored.snapshots.find(one => one.id === id);
    if (!record) throw new AsofError('SNAPSHOT_UNKNOWN', `the volume ${this.name} has no snapshot ${id}`);
    const provider = providerNamed(record.provider);
    if (!record.temporary || !provider.preserved) {
      throw new AsofError(
        'SNAPSHOT_FAILED',
        `nothing of the snapshot ${id} is given back: it is not of a lease`,
      );
    }
    try {
      if (runs.length > 0) await provider.release(opened, record, runs, ANY_READERS);
      return await provider.preserved(opened, record, limit);
    } catch (error) {
      const why = errnoOf(error) || messageOf(error);
      throw new AsofError('SNAPSHOT_FAILED', `nothing of the snapshot ${id} is given back: ${why}`, '', {
        cause: error,
      });
    }
  }

  /** Before a snapshot of that id is taken: a start that finds it deletes it. Throws IO. */
  expectTemporary(id: string): void {
    this.#moments.markTemporary(id);
  }

  /** There is none of that id. */
  expectNone(id: string): void {
    this.#moments.unmarkTemporary(id);
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
  changes(since: SnapshotEpoch | undefined, until: SnapshotInfo | undefined): Changes {
    return changedBetween(this.#require().native, this.definition.size, since, until);
  }

  /** The clean stop. Never throws: what could not be recorded is unknown at the next start. */
  async close(): Promise<void> {
    const opened = this.#opened;
    if (!opened) return;
    await this.#overlays.close();
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
      this.#keep({ snapshots: [], deleted: withEpochs(deleted, snapshots) });
      await this.#overlays.close();
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
