/** What stands in volume.json and state.json (docs/formats.md), and how it changes. */
import type { Worth } from './consistency.js';
import type { Marker } from './consumer.js';
import type { VolumeDefinition } from './definition.js';
import type { Constants, Identity } from './identity.js';
import type { ProviderVolume, SnapshotProvider, Taken } from './provider.js';
import { providerNamed } from './providers.js';
import {
  epochOf,
  freeMoment,
  type SnapshotEpoch,
  type SnapshotRecord,
  type SnapshotState,
} from './snapshot.js';

/** volume.json: `added` is written when everything else is there. */
export interface StoredDefinition {
  readonly added: boolean;
  readonly definition: VolumeDefinition;
}

/** state.json. */
export interface StoredState {
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

/** What of it changes while the volume is open. */
export interface Stored extends Pick<StoredState, 'snapshots' | 'deleted'> {
  readonly consumers: readonly Marker[];
}

export const DEFINITION = 'volume';
export const STATE = 'volume-state';

/** Deleted snapshots whose epochs are kept: a consumer may ask for what changed since one. */
const EPOCHS_KEPT = 4096;

/** The name of a new snapshot's folder. */
export function momentOf(time: number, { snapshots }: Pick<Stored, 'snapshots'>): string {
  return freeMoment(
    time,
    snapshots.map(({ moment }) => moment),
  );
}

/** Above every epoch that is on record. */
export function leastEpochOf({ snapshots, deleted, consumers }: Stored): number {
  const all = [...snapshots, ...deleted, ...consumers.map(one => one.has)];
  return all.reduce((most, { epoch }) => Math.max(most, epoch + 1), 0);
}

/**
 * What changed since any moment of before is unknown, for good. The engine knows as well, but keeps the last reason only.
 */
export function withoutPast({ snapshots, deleted, consumers }: Stored, why: string): Stored {
  const lose = <T extends SnapshotEpoch>(one: T): T => ({ ...one, lost: one.lost ?? why });
  return {
    snapshots: snapshots.map(lose),
    deleted: deleted.map(lose),
    consumers: consumers.map(one => ({ ...one, has: lose(one.has) })),
  };
}

/** `deleted`, with those of `snapshots` that go. */
export function withEpochs(
  deleted: readonly SnapshotEpoch[],
  snapshots: readonly SnapshotRecord[],
): SnapshotEpoch[] {
  return [...deleted, ...snapshots.map(epochOf)].slice(-EPOCHS_KEPT);
}

/** What the providers say of live snapshots: each is asked once. */
export function statesOf(
  volume: ProviderVolume,
): (record: SnapshotRecord) => { readonly state: SnapshotState; readonly why: string } {
  const lookups = new Map<string, ReturnType<SnapshotProvider['states']>>();
  return ({ provider, id }) => {
    const lookup = lookups.get(provider) ?? providerNamed(provider).states(volume);
    lookups.set(provider, lookup);
    return lookup(id);
  };
}

/** Of a snapshot that `provider` has taken. */
export function recordOf(
  provider: SnapshotProvider,
  { id, group, groupSize, epoch }: Pick<SnapshotRecord, 'id' | 'group' | 'groupSize' | 'epoch'>,
  { time, holdNs, switchNs }: Pick<Taken, 'time' | 'holdNs' | 'switchNs'>,
  moment: string,
  consistency: Worth = 'crash',
  marks: readonly string[] = [],
  temporary = false,
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
    ...(marks.length > 0 ? { marks } : {}),
    ...(temporary ? { temporary } : {}),
  };
}
