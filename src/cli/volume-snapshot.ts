/**
 * A snapshot of a volume of the daemon for as long as somebody reads it: taken over the API, read through the mount, deleted
 * again. It is one moment for what is read and for what changed since another one.
 */
import { AsofError } from '../errors.js';
import type { ChangedEnd, Extent, SnapshotInfo, VolumeInfo } from '../volumes.js';
import { Client } from './client.js';
import { printable } from './columns.js';
import type { StateFlags } from './state.js';

export interface HeldSnapshot {
  readonly volume: VolumeInfo;
  readonly snapshot: SnapshotInfo;
  /** Of the daemon. */
  readonly mount: string;
  /** Of the snapshot's disk. */
  readonly path: string;
  /** Why nothing that was read of it can be believed; undefined where it can. */
  readonly changed: () => Promise<string | undefined>;
  /** What was written after the snapshot of that id and before this one: start and length. */
  readonly tracker: (since: string) => Promise<{
    readonly extents: readonly (readonly [number, number])[] | undefined;
    readonly why: string;
  }>;
}

/** `request` is what is asked of the moment. Throws what the daemon throws. */
export async function withSnapshot<T>(
  name: string,
  flags: StateFlags,
  request: object,
  work: (held: HeldSnapshot) => Promise<T>,
): Promise<T> {
  const client = new Client(flags);
  const path = `/volumes/${encodeURIComponent(name)}`;
  const volume = await client.ask<VolumeInfo>('GET', path);
  const { mount } = await client.ask<{ mount: string | null }>('GET', '/daemon');
  if (mount === null) {
    const hint = 'start it with --mount DIR';
    throw new AsofError('MOUNT_POINT', 'the daemon shows no disks, so that no snapshot can be read', hint);
  }
  const [taken] = await client.ask<SnapshotInfo[]>('POST', '/snapshots', { volumes: [name], ...request });
  const snapshot = taken!;
  try {
    if (snapshot.state === 'none') {
      throw new AsofError('PROVIDER_UNAVAILABLE', `the snapshot preserves nothing: ${snapshot.why}`);
    }
    return await work({
      volume,
      snapshot,
      mount,
      path: `${mount}/volumes/${volume.name}/${snapshot.moment}/disk`,
      async changed() {
        const [now] = await client.ask<SnapshotInfo[]>('GET', `/snapshots/${snapshot.id}`);
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
    });
  } finally {
    try {
      await client.ask('DELETE', `/snapshots/${snapshot.id}`);
    } catch (error) {
      // What was to be done is done; or what made it fail is told, and not this.
      const why = error instanceof Error ? error.message : String(error);
      const warning = `the snapshot ${snapshot.id} stays: ${why}`;
      process.stderr.write(flags.json ? `${JSON.stringify({ warning })}\n` : `asof: ${printable(warning)}\n`);
    }
  }
}
