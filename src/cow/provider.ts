/**
 * What takes snapshots. A provider says what it can do before it is asked; test/cow/provider-conformance.ts holds all of
 * them to the same promises.
 */
import type { NativeCowVolume, NativeReadable } from '../native.js';
import type { VolumeDefinition } from './definition.js';
import type { Origin } from './origin.js';
import type { SnapshotRecord, SnapshotState } from './snapshot.js';

export interface ProviderCapabilities {
  /** Takes several volumes as one moment. */
  readonly group: boolean;
  /** Asks the file system to hold still. */
  readonly freeze: boolean;
  /** Its snapshots outlive the daemon. */
  readonly persistent: boolean;
  /** What changed since one of its snapshots is known to the chunk; else more is reported than changed. */
  readonly tracked: boolean;
  /** A snapshot goes on existing when somebody else has written to the origin. */
  readonly independent: boolean;
  /** A consumer may give ranges of a snapshot back. */
  readonly release: boolean;
  /** Keeps the bytes of the moment; else there is no disk of it. */
  readonly preserves: boolean;
}

/** What a provider may use of an open volume. */
export interface ProviderVolume {
  readonly definition: VolumeDefinition;
  /** Of the volume in the state directory. */
  readonly folder: string;
  readonly origin: Origin;
  readonly native: NativeCowVolume;
  /** Bytes of the volume group for a thick snapshot of lvm2; all that the origin could change where absent. */
  readonly lvmSize?: number | undefined;
}

export interface Request {
  readonly volume: ProviderVolume;
  readonly id: string;
}

export interface Taken {
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly holdNs: number;
  readonly switchNs: number;
  /** In the order of the requests: the epoch that each closed, or in which it was made. */
  readonly epochs: readonly number[];
  /** Likewise: writes that each volume had met at the switch, by a provider that can tell. */
  readonly writes?: readonly number[];
}

/** A snapshot that can be read. The native part is what a mount serves. */
export interface SnapshotDisk {
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly native: NativeReadable;
  close(): void;
}

/** A snapshot that the provider itself remembers. */
export interface Found {
  readonly id: string;
  readonly group: string;
  readonly groupSize: number;
  readonly time: number;
  readonly holdNs: number;
  readonly switchNs: number;
  readonly epoch: number;
}

export interface SnapshotProvider {
  readonly name: string;
  readonly can: ProviderCapabilities;
  /** undefined where it can take snapshots of the volume; else why it cannot, in words. */
  unavailable(volume: ProviderVolume): Promise<string | undefined>;
  /**
   * All of `requests` as one moment, or none: more than one only if it can `group`. Writers are let go after `timeoutMs`, and
   * then it rejects.
   */
  take(requests: readonly Request[], group: string, timeoutMs: number): Promise<Taken>;
  /** What is there whether it was recorded or not: a daemon may have died in between. */
  list(volume: ProviderVolume): Found[] | Promise<Found[]>;
  /** Where what `states` tells must be asked for beforehand: asks. Never rejects. */
  refresh?(volume: ProviderVolume): Promise<void>;
  /** Asks once, for as many snapshots as then are looked up. */
  states(volume: ProviderVolume): (id: string) => { readonly state: SnapshotState; readonly why: string };
  /** Throws where it cannot be opened. */
  open(volume: ProviderVolume, snapshot: Pick<SnapshotRecord, 'id'>): SnapshotDisk;
  /** Gives its space back. One that is gone is no error. */
  delete(volume: ProviderVolume, snapshot: Pick<SnapshotRecord, 'id'>): Promise<void>;
  /**
   * Starts and lengths alternate. `own`: open files that do not count as readers.
   * Rejects with EBUSY where somebody reads it, with EOPNOTSUPP where the provider cannot.
   */
  release(
    volume: ProviderVolume,
    snapshot: Pick<SnapshotRecord, 'id'>,
    runs: Float64Array,
    own: number,
  ): Promise<void>;
  /**
   * What is kept for the snapshot and not read from the origin: at first all of it, then what came since; at most `limit` runs
   * at once. Absent where the provider cannot tell.
   */
  preserved?(
    volume: ProviderVolume,
    snapshot: Pick<SnapshotRecord, 'id'>,
    limit: number,
  ): Promise<Float64Array>;
}
