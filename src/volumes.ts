/**
 * Composition for live volumes: the state directory, the volumes in it, and the mount that shows them. The daemon asks it
 * alone; service.ts is its brother for images.
 *
 *   MOUNT/volumes/NAME/live                read-write
 *   MOUNT/volumes/NAME/info.json
 *   MOUNT/volumes/NAME/<moment>/disk       read-only; info.json beside it, and its partitions: p1, p2 …
 *   MOUNT/volumes/NAME/<moment>/overlay    read-write, where the snapshot has a writable view
 *   MOUNT/volumes/NAME/@<time>             the newest snapshot at or before a time; not listed
 */
import { resolve } from 'node:path';
import type { SectorSize } from './block/source.js';
import type { Changes, ChangesEnd } from './cow/changed.js';
import { SYSTEM_CLOCK } from './cow/clock.js';
import { CONSISTENCIES } from './cow/consistency.js';
import type { MarkerInfo } from './cow/consumer.js';
import type { DeclaredVolume, VolumeRequest } from './cow/definition.js';
import type { JobInfo } from './cow/jobs.js';
import type { Tracking } from './cow/past.js';
import { NO_POLICIES, type SnapshotPolicies, type SnapshotPolicy } from './cow/policy.js';
import { PROVIDERS } from './cow/providers.js';
import { MOMENT_DEFAULTS, type MomentRequest } from './cow/quiesce.js';
import type { RunInfo, Schedule, ScheduleInfo } from './cow/schedule.js';
import { Scheduler } from './cow/scheduler.js';
import type { SnapshotInfo } from './cow/snapshot.js';
import { StateFolder } from './cow/state-folder.js';
import type { TakenSnapshot } from './cow/taking.js';
import type { Volume, VolumeState } from './cow/volume.js';
import { type ChangesQuery, type ShownSnapshot, type VolumeActivity, Volumes } from './cow/volumes.js';
import { AsofError } from './errors.js';
import { type Lease, Leases } from './leases.js';
import type { Logger } from './log.js';
import { endOfTime } from './moment.js';
import type { EndReason, MountDriver, Mounted } from './mount/driver.js';
import { canonical } from './mount/mounts.js';
import type { Directory, Entry, ShownDisk, Tree } from './mount/tree.js';
import { loadAddon } from './native.js';
import { type Configured, Options } from './options.js';
import { PartitionTree } from './partition-tree.js';
import { ScheduledBackups } from './scheduled-backups.js';
import { workOn } from './schedules.js';
import { type DriverName, mountDriver } from './service.js';

export type {
  ChangesQuery,
  DeclaredVolume,
  DriverName,
  JobInfo,
  Lease,
  MarkerInfo,
  MomentRequest,
  RunInfo,
  Schedule,
  ScheduleInfo,
  ShownSnapshot,
  SnapshotInfo,
  SnapshotPolicy,
  TakenSnapshot,
  VolumeActivity,
  VolumeRequest,
};
export { CONSISTENCIES, MOMENT_DEFAULTS };

/** What the configuration says of single volumes and groups. */
export type OwnPolicies = Omit<SnapshotPolicies, 'defaults'>;

export interface LiveOptions {
  /** The state directory. */
  readonly state: string;
  /** An existing directory on which the volumes are shown; not shown where absent. */
  readonly mount?: string | undefined;
  readonly allowOther: boolean;
  readonly driver?: DriverName | undefined;
  /** Options that the configuration says. */
  readonly defaults?: Configured;
  /** Added where they are not there yet. */
  readonly declared?: readonly DeclaredVolume[];
  /** Names for several volumes. */
  readonly groups?: ReadonlyMap<string, readonly string[]>;
  /** Which providers take the snapshots of what; of what is not named, the options say it. */
  readonly policies?: OwnPolicies;
  readonly schedules?: readonly Schedule[];
  readonly log: Logger;
}

export const PROVIDER_NAMES = PROVIDERS.map(provider => provider.name);

/** What changed in a volume since a moment: told piece by piece, as it is found. */
export interface ChangedExtents {
  readonly volume: string;
  /** The snapshot's id, or `added`. */
  readonly since: string;
  readonly pieces: Changes;
}

/** What stands at the end of it. */
export interface ChangedEnd extends ChangesEnd {
  /** Bytes of all extents. */
  readonly bytes: number;
}

export interface Extent {
  readonly start: number;
  readonly length: number;
}

/** What is told of a volume. */
export interface VolumeInfo {
  readonly id: string;
  readonly name: string;
  readonly state: VolumeState;
  /** Why it is not open; '' where it is. */
  readonly why: string;
  readonly origin: string;
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: number;
  readonly chunkSize: number;
  readonly durability: string;
  readonly onCowError: string;
  readonly cowTimeoutSeconds: number;
  /** null for a store in memory. */
  readonly store: string | null;
  /** Bytes; 0 is no limit. */
  readonly storeLimit: number;
  /** Bytes; null where the volume is not open. */
  readonly storeUsed: number | null;
  readonly snapshots: number;
  /** ISO 8601. */
  readonly added: string;
  readonly tracking: Tracking;
  /** Who has which moment of it, by name. */
  readonly consumers: readonly MarkerInfo[];
  /** What the layer has told of itself since the daemon started, newest last. */
  readonly events: readonly { readonly kind: string; readonly snapshot: string; readonly why: string }[];
  /** The path of the live device; null where nothing is mounted or the volume is not open. */
  readonly live: string | null;
}

/** A snapshot, and the file that is its writable view. */
export interface SnapshotOverlay extends SnapshotInfo {
  readonly path: string;
}

export class LiveVolumes {
  readonly state: StateFolder;
  readonly volumes: Volumes;
  readonly options: Options;
  readonly schedules: Scheduler;
  readonly leases: Leases;
  readonly mounted: Mounted | undefined;
  readonly driver: MountDriver['name'] | undefined;
  readonly #backups: ScheduledBackups;
  #ending = false;
  #closed = false;

  private constructor(
    given: LiveOptions,
    state: StateFolder,
    options: Options,
    volumes: Volumes,
    mounted: Mounted | undefined,
    driver?: MountDriver['name'],
  ) {
    this.state = state;
    this.options = options;
    this.volumes = volumes;
    this.mounted = mounted;
    this.driver = driver;
    this.leases = new Leases(volumes, request => options.moment(request));
    this.#backups = new ScheduledBackups(this.leases, state.path, given.log);
    this.schedules = new Scheduler({
      folder: state.path,
      schedules: given.schedules ?? [],
      clock: SYSTEM_CLOCK,
      log: given.log,
      work: workOn(
        volumes,
        (names, providers, request) => this.snapshot(names, providers, request),
        group => this.deleteSnapshot(group, { force: false }),
        (schedule, job) => this.#backups.run(schedule, job),
      ),
    });
  }

  /** Brings back what the state directory holds, and shows it. Throws what locking, opening and mounting throw. */
  static async open(options: LiveOptions): Promise<LiveVolumes> {
    const { log } = options;
    const state = StateFolder.open(options.state);
    const preferred = new Options(state.path, options.defaults, log);
    const mountPoint = options.mount === undefined ? undefined : resolve(options.mount);
    let mounted: Mounted | undefined;
    let volumes: Volumes | undefined;
    const fails = (error: unknown) => log.error({ err: error }, 'the mount does not show the change');
    try {
      const all = await Volumes.open({
        state,
        log,
        mountPoint: mountPoint === undefined ? undefined : await canonical(mountPoint),
        get defaults() {
          return preferred.volumeDefaults();
        },
        groups: options.groups,
        get policies() {
          return { ...NO_POLICIES, ...options.policies, defaults: preferred.policy() };
        },
        changed: async () => {
          // The volumes go on without their names.
          await mounted?.update(treeOf(all)).catch(fails);
        },
        invalid: disk => {
          mounted?.refresh(disk).catch(fails);
        },
      });
      volumes = all;
      await all.declare(options.declared ?? []);
      if (mountPoint === undefined) {
        return new LiveVolumes(options, state, preferred, all, undefined);
      }
      const driver = await mountDriver(options.driver);
      if (!driver.can.write || !driver.can.change) {
        throw new AsofError(
          'DRIVER_UNAVAILABLE',
          `the mount driver ${driver.name} shows no live volumes`,
          '--driver native',
        );
      }
      const { allowOther } = options;
      mounted = await driver.mount(treeOf(all), {
        mountPoint,
        source: state.path,
        allowOther,
        writable: true,
      });
      return new LiveVolumes(options, state, preferred, all, mounted, driver.name);
    } catch (error) {
      await volumes?.close();
      state.close();
      throw error;
    }
  }

  /** The first step to the end: no job begins any more, those under way end, and nothing else has changed. */
  stop(): void {
    this.schedules.stop();
    this.volumes.stop();
  }

  /** Its volumes are closed, or about to be. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Resolves when somebody else has ended the mount, or it has failed; never where there is none. */
  async lost(): Promise<EndReason> {
    const reason = await (this.mounted?.ended ?? new Promise<never>(() => {}));
    return this.#ending ? new Promise<never>(() => {}) : reason;
  }

  /**
   * The clean stop: the mount first, so that nobody writes any more. Throws MOUNT_BUSY, and nothing has ended, unless
   * `force`: then whoever is inside meets errors from now on. A second call does nothing.
   */
  async close(options: { readonly force: boolean }): Promise<void> {
    if (this.#closed) return;
    this.#ending = true;
    // A backup that is cut off stands as begun, and is made up for at the next start.
    this.schedules.stop();
    await this.#backups.stop(options);
    try {
      await this.mounted?.unmount();
    } catch (error) {
      const gone = error instanceof AsofError && error.code === 'NOT_MOUNTED';
      if (!gone && !options.force) {
        this.#ending = false;
        throw error;
      }
      if (!gone) await this.mounted?.unmount({ lazy: true });
    }
    this.#closed = true;
    await this.volumes.close();
    await this.schedules.settled();
    this.state.close();
  }

  /**
   * Throws VOLUME_IN_USE where it has snapshots, unless `force`, and where somebody has a file of it open: a file system
   * on the live device would lose its disk.
   */
  async remove(name: string, options: { readonly force: boolean }): Promise<Volume> {
    const volume = this.volumes.get(name);
    if (this.mounted) {
      const { holdersOf } = await import('./mount/holders.js');
      const mountPoint = `${this.mounted.mountPoint}/volumes/${volume.name}`;
      const below = { id: -1, parent: -1, device: '', mountPoint, type: '', source: '' };
      const [holder] = await holdersOf(below);
      if (holder) {
        const hint = holder.release || `end it, then asof volume remove ${volume.name}`;
        throw new AsofError('VOLUME_IN_USE', `the volume ${volume.name} is in use by ${holder.who}`, hint);
      }
    }
    return this.volumes.remove(name, options);
  }

  /** Throws SNAPSHOT_IN_USE where somebody reads it, unless `force`, and what Volumes.deleteSnapshot throws. */
  async deleteSnapshot(id: string, options: { readonly force: boolean }): Promise<SnapshotInfo[]> {
    if (this.mounted && !options.force) {
      const { holdersOf } = await import('./mount/holders.js');
      for (const { id: one, volume, moment } of this.volumes.deletable(id)) {
        const mountPoint = `${this.mounted.mountPoint}/volumes/${volume}/${moment}`;
        const [holder] = await holdersOf({
          id: -1,
          parent: -1,
          device: '',
          mountPoint,
          type: '',
          source: '',
        });
        if (!holder) continue;
        throw new AsofError(
          'SNAPSHOT_IN_USE',
          `the snapshot ${one} of the volume ${volume} is in use by ${holder.who}`,
          `${holder.release || 'end it'}, or asof snapshot delete --force ${id}: whoever reads it meets errors`,
        );
      }
    }
    return this.volumes.deleteSnapshot(id);
  }

  /** The snapshot with a writable view of it, and where that is shown. Throws what Volumes.addOverlay throws. */
  async addOverlay(id: string, layer: string | undefined): Promise<SnapshotOverlay> {
    if (!this.mounted) {
      const hint = 'asof serve --mount DIR shows volumes';
      throw new AsofError(
        'OVERLAY_UNUSABLE',
        'an overlay is a file of the mount, and this daemon has none',
        hint,
      );
    }
    const snapshot = await this.volumes.addOverlay(id, layer);
    return { ...snapshot, path: this.#overlayPath(snapshot) };
  }

  /** Throws what Volumes.dropOverlay throws. */
  async dropOverlay(id: string): Promise<SnapshotInfo> {
    return this.volumes.dropOverlay(id, async snapshot => {
      if (!this.mounted) return;
      const { holdersOf } = await import('./mount/holders.js');
      const mountPoint = this.#overlayPath(snapshot);
      const [holder] = await holdersOf({ id: -1, parent: -1, device: '', mountPoint, type: '', source: '' });
      if (!holder) return;
      const why = `the overlay of the snapshot ${snapshot.id} is in use by ${holder.who}`;
      throw new AsofError('OVERLAY_IN_USE', why, holder.release || 'end it, then drop the overlay');
    });
  }

  #overlayPath({ volume, moment }: SnapshotInfo): string {
    return `${this.mounted?.mountPoint}/volumes/${volume}/${moment}/overlay`;
  }

  /** One moment of these volumes, as the options say where the request does not. Throws what Volumes.snapshot throws. */
  async snapshot(
    names: readonly string[],
    providers: readonly string[] | undefined,
    request: MomentRequest,
  ): Promise<TakenSnapshot[]> {
    return this.volumes.snapshot(names, providers, this.options.moment(request));
  }

  /** Throws SNAPSHOT_UNKNOWN, CONSUMER_UNKNOWN, VOLUME_UNKNOWN or VOLUME_NOT_OPEN. */
  changes(name: string, query: ChangesQuery): ChangedExtents {
    return { volume: this.volumes.get(name).name, ...this.volumes.changes(name, query) };
  }

  info(volume: Volume): VolumeInfo {
    const { definition, state } = volume;
    const shown =
      this.mounted && state === 'open' ? `${this.mounted.mountPoint}/volumes/${volume.name}/live` : null;
    return { ...infoOf(volume), live: shown, name: definition.name };
  }
}

function infoOf(volume: Volume): Omit<VolumeInfo, 'live'> {
  const { definition, state, why, tracking } = volume;
  const { id, name, origin, size, sectorSize, chunkSize, durability, onCowError, storeLimit } = definition;
  return {
    id,
    name,
    state,
    why,
    origin,
    size,
    sectorSize,
    chunkSize,
    durability,
    onCowError,
    cowTimeoutSeconds: definition.cowTimeoutMs / 1000,
    store: definition.store ?? null,
    storeLimit,
    storeUsed: state === 'open' ? volume.activity().storeUsed : null,
    snapshots: volume.snapshots().length,
    added: new Date(definition.added).toISOString(),
    tracking,
    consumers: volume.consumers(),
    events: volume.events.map(({ kind, snapshot, why }) => ({ kind, snapshot, why })),
  };
}

/** systemd's socket, where it started this process with Type=notify. Programs that are run from here are not meant. */
const MANAGER = process.env['NOTIFY_SOCKET'];
delete process.env['NOTIFY_SOCKET'];

/** Tells systemd (sd_notify(3)). */
export function notifyManager(text: string): void {
  if (MANAGER) loadAddon().notifyManager(MANAGER, text);
}

/** The tree of all volumes as they are now. A disk is the same object in every tree; names are made anew. */
export function treeOf(volumes: Volumes): Tree {
  const folders = volumes
    .list()
    .filter(volume => volume.state !== 'unknown')
    .map(volume => folderOf(volume, volumes));
  const modified = newest(folders);
  return {
    kind: 'directory',
    name: '',
    modified,
    entries: [{ kind: 'directory', name: 'volumes', modified, entries: folders }],
  };
}

function folderOf(volume: Volume, volumes: Volumes): Directory {
  const added = new Date(volume.definition.added);
  const snapshots = volume.state === 'open' ? volume.snapshots() : [];
  const moments = snapshots.map(snapshot => momentFolder(volume, volumes, snapshot));
  const entries: Entry[] = [
    { kind: 'text', name: 'info.json', modified: added, text: () => json(infoOf(volume)) },
    ...moments,
  ];
  if (volume.state === 'open') {
    entries.unshift({
      kind: 'disk',
      name: 'live',
      modified: added,
      disk: volume.opened().live,
      writable: true,
    });
  }
  return {
    kind: 'directory',
    name: volume.name,
    modified: newest(moments, added),
    entries,
    find(name) {
      const time = name.startsWith('@') ? endOfTime(name.slice(1))?.getTime() : undefined;
      if (time === undefined) return undefined;
      // What a lease has to itself is not for others: ranges of it are errors.
      const index = snapshots.findLastIndex(one => one.time <= time && !one.temporary);
      return index < 0 ? undefined : moments[index];
    },
  };
}

function momentFolder(volume: Volume, volumes: Volumes, snapshot: SnapshotInfo): Directory {
  const modified = new Date(snapshot.time);
  const { id, moment } = snapshot;
  let partitions: PartitionTree | undefined;
  const told = async () => {
    const state = volumes.snapshots(volume.name).find(one => one.id === id) ?? snapshot;
    return { ...state, ...(state.state === 'live' ? await partitions?.info() : {}) };
  };
  const entries: Entry[] = [
    { kind: 'text', name: 'info.json', modified, text: async () => json(await told()) },
  ];
  try {
    const disk = volume.disk(id);
    entries.unshift({ kind: 'disk', name: 'disk', modified, disk });
    partitions = partitionsIn(disk, volume.definition.sectorSize);
    entries.push(...(partitions.known(modified) ?? []));
  } catch {
    // What cannot be opened has no disk; info.json says why.
  }
  const overlay = volume.overlays.get(id);
  if (overlay) entries.push({ kind: 'disk', name: 'overlay', modified, disk: overlay, writable: true });
  const more = partitions && !partitions.known(modified) ? () => partitions.files(modified) : undefined;
  return { kind: 'directory', name: moment, modified, entries, more };
}

/** A tree is made anew at each change, and the disks stay; so do their partitions. */
const partitionTrees = new WeakMap<ShownDisk, PartitionTree>();

function partitionsIn(disk: ShownDisk, sectorSize: SectorSize): PartitionTree {
  let partitions = partitionTrees.get(disk);
  if (!partitions) {
    partitions = new PartitionTree(disk, sectorSize);
    partitionTrees.set(disk, partitions);
  }
  return partitions;
}

function newest(entries: readonly Entry[], least = new Date(0)): Date {
  return new Date(Math.max(least.getTime(), ...entries.map(({ modified }) => modified.getTime())));
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
