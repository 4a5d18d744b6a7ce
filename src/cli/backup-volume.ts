/**
 * A backup of volumes of the daemon: it takes one moment of them that is this run's own (a lease), which is read through the
 * mount and goes when the run is over, however that ends. What changed is asked of the tracker, relative to the snapshot of
 * the point below: the snapshot is the moment of the image and of the tracking at once, and what is written after it belongs
 * to the next. While it is read it is drained: drain.ts.
 */
import { statSync } from 'node:fs';
import { AsofError } from '../errors.js';
import { type BackupOptions, type BackupResult, backup, noteFailure } from '../histories.js';
import type { ChangedEnd, Extent, VolumeInfo } from '../volumes.js';
import { Client } from './client.js';
import { Drain } from './drain.js';
import type { StateFlags } from './state.js';

export { backup, noteFailure };

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

export interface VolumesBackedUp {
  /** In the order of the snapshots. */
  readonly results: readonly BackupResult[];
  /** Commands after the backup that failed. */
  readonly marks: readonly string[];
  readonly warnings: readonly string[];
}

interface Target {
  readonly to: string;
  readonly leaveUnused?: boolean;
}

/** Whether SOURCE names a volume, not a path; a folder is no source. */
export function isVolume(source: string): boolean {
  if (source.includes('/')) return false;
  return statSync(source, { throwIfNoEntry: false })?.isDirectory() ?? true;
}

/** Names of volumes, and of groups behind an @: one moment. Throws what the daemon throws, and what a backup throws. */
export async function backupVolumes(
  names: readonly string[],
  flags: StateFlags & Target,
  options: BackupOptions,
): Promise<VolumesBackedUp> {
  const client = new Client(flags);
  await mountOf(client);
  const held = await client.hold<HeldLease>('POST', '/leases', { volumes: names });
  const gone = new AbortController();
  let over = false;
  held.ended.then(() => {
    if (!over) gone.abort();
  });
  try {
    const done = await backupLease(client, held.first, flags, {
      ...options,
      signal: both(options.signal, gone.signal),
    });
    over = true;
    const { marks } = await client.ask<{ marks: string[] }>('DELETE', `/leases/${held.first.lease}`);
    return { ...done, marks };
  } finally {
    over = true;
    // Where it has not ended, it does now.
    held.close();
  }
}

/** Backs up the snapshots of a lease, one after the other; whoever has the lease ends it. */
export async function backupLease(
  client: Client,
  { lease, snapshots }: HeldLease,
  target: Target,
  options: BackupOptions,
): Promise<Omit<VolumesBackedUp, 'marks'>> {
  const mount = await mountOf(client);
  const results: BackupResult[] = [];
  const warnings: string[] = [];
  for (const snapshot of snapshots) {
    const drain = snapshot.drains
      ? new Drain(client, {
          lease,
          snapshot: snapshot.id,
          size: snapshot.size,
          chunkSize: snapshot.chunkSize,
        })
      : undefined;
    results.push(await backupSnapshot(client, mount, snapshot, target, { ...options, ...drain?.hooks }));
    if (drain?.trouble !== undefined) {
      warnings.push(`${snapshot.volume} was copied without giving back what was stored: ${drain.trouble}`);
    }
  }
  return { results, warnings };
}

async function backupSnapshot(
  client: Client,
  mount: string,
  snapshot: LeaseSnapshot,
  { to, leaveUnused }: Target,
  options: BackupOptions,
): Promise<BackupResult> {
  const { consistency } = snapshot;
  if (consistency === 'none') {
    const hint = 'docs/consistency.md: another provider preserves the moment';
    throw new AsofError(
      'SNAPSHOT_FAILED',
      `of ${snapshot.volume} nothing was preserved that could be read`,
      hint,
    );
  }
  const path = `/volumes/${encodeURIComponent(snapshot.volumeId)}`;
  const volume = await client.ask<VolumeInfo>('GET', path);
  return backup(`${mount}/volumes/${snapshot.volume}/${snapshot.moment}/disk`, to, options, {
    format: 'raw',
    sectorSize: volume.sectorSize === 4096 ? 4096 : 512,
    map: leaveUnused,
    volume: { id: volume.id, name: volume.name, source: volume.origin },
    time: new Date(snapshot.at),
    consistency,
    snapshot: snapshot.id,
    allocation: 'holes',
    // Of a broken one no read can be believed, nor that a sector of it is bad.
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
  });
}

/** Where the daemon shows its disks. Throws MOUNT_POINT where it shows none. */
async function mountOf(client: Client): Promise<string> {
  const { mount } = await client.ask<{ mount: string | null }>('GET', '/daemon');
  if (mount !== null) return mount;
  const hint = 'start it with --mount DIR';
  throw new AsofError('MOUNT_POINT', 'the daemon shows no disks, so that no snapshot can be read', hint);
}

function both(one: AbortSignal | undefined, other: AbortSignal): AbortSignal {
  return one ? AbortSignal.any([one, other]) : other;
}
