/**
 * One moment of volumes of the daemon for as long as this run reads it: a lease. Its snapshots are read through the mount and go
 * when the run is over, however that ends. Each is one moment for what is read and for what changed since another one.
 */
import { AsofError } from '../errors.js';
import type { ChangedEnd, Extent, VolumeInfo } from '../volumes.js';
import { Client } from './client.js';
import type { StateFlags } from './state.js';

/** What the daemon tells of a snapshot of a lease. */
export interface LeaseSnapshot {
  readonly id: string;
  readonly volume: string;
  readonly volumeId: string;
  readonly moment: string;
  readonly at: string;
  readonly consistency: 'application' | 'filesystem' | 'quiet' | 'crash' | 'none';
  readonly state: string;
  readonly why: string;
  readonly size: number;
  readonly chunkSize: number;
  /** Ranges of it can be given back. */
  readonly drains: boolean;
}

export interface HeldLease {
  readonly lease: string;
  readonly snapshots: readonly LeaseSnapshot[];
}

export interface Held<T> {
  readonly result: T;
  /** Commands after the moment, and after the work, that failed. */
  readonly marks: readonly string[];
}

/**
 * `request` is what is asked of the moment. The signal is aborted where the daemon ends the lease first. Throws what the daemon
 * and `work` throw.
 */
export async function withLease<T>(
  names: readonly string[],
  flags: StateFlags,
  request: object,
  work: (client: Client, lease: HeldLease, gone: AbortSignal) => Promise<T>,
): Promise<Held<T>> {
  const client = new Client(flags);
  await mountOf(client);
  const held = await client.hold<HeldLease>('POST', '/leases', { volumes: names, ...request });
  const gone = new AbortController();
  let over = false;
  held.ended.then(() => {
    if (!over) gone.abort();
  });
  try {
    const result = await work(client, held.first, gone.signal);
    over = true;
    const { marks } = await client.ask<{ marks: string[] }>('DELETE', `/leases/${held.first.lease}`);
    return { result, marks };
  } finally {
    over = true;
    // Where it has not ended, it does now.
    held.close();
  }
}

/** How a snapshot of a lease is read. */
export interface Readable {
  readonly volume: VolumeInfo;
  /** Where the daemon shows its disks, and the snapshot's. */
  readonly mount: string;
  readonly path: string;
  /** Why nothing that was read of it can be believed; undefined where it can. */
  readonly changed: () => Promise<string | undefined>;
  /** What was written after the snapshot of that id and before this one: start and length. */
  readonly tracker: (since: string) => Promise<{
    readonly extents: readonly (readonly [number, number])[] | undefined;
    readonly why: string;
  }>;
}

/** Throws what the daemon throws. */
export async function readableOf(client: Client, snapshot: LeaseSnapshot): Promise<Readable> {
  const mount = await mountOf(client);
  const path = `/volumes/${encodeURIComponent(snapshot.volumeId)}`;
  const volume = await client.ask<VolumeInfo>('GET', path);
  return {
    volume,
    mount,
    path: `${mount}/volumes/${snapshot.volume}/${snapshot.moment}/disk`,
    async changed() {
      const [now] = await client.ask<LeaseSnapshot[]>('GET', `/snapshots/${snapshot.id}`);
      return now?.state === 'live' ? undefined : `the snapshot broke while it was read: ${now?.why}`;
    },
    async tracker(since) {
      try {
        const asked = `${path}/changes?${new URLSearchParams({ since, until: snapshot.id })}`;
        const { extents, method, why } = await client.ask<ChangedEnd & { extents: Extent[] }>('GET', asked);
        if (method === 'none') return { extents: undefined, why };
        return { extents: extents.map(({ start, length }) => [start, length] as const), why };
      } catch (error) {
        if (!(error instanceof AsofError) || error.code !== 'SNAPSHOT_UNKNOWN') throw error;
        return { extents: undefined, why: 'the tracker does not know the snapshot of the base any more' };
      }
    },
  };
}

/** Where the daemon shows its disks. Throws MOUNT_POINT where it shows none. */
async function mountOf(client: Client): Promise<string> {
  const { mount } = await client.ask<{ mount: string | null }>('GET', '/daemon');
  if (mount !== null) return mount;
  const hint = 'start it with --mount DIR';
  throw new AsofError('MOUNT_POINT', 'the daemon shows no disks, so that no snapshot can be read', hint);
}
