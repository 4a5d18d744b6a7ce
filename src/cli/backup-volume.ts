/**
 * A backup of a volume of the daemon: a snapshot is taken over its API, read through the mount, and deleted again; what
 * changed is asked of the tracker, relative to the snapshot of the point below. The snapshot is the moment of the image
 * and of the tracking at once: what is written after it belongs to the next.
 */
import { statSync } from 'node:fs';
import { AsofError } from '../errors.js';
import { type BackupOptions, type BackupResult, backup } from '../histories.js';
import type { ChangedEnd, Extent, VolumeInfo } from '../volumes.js';
import { Client } from './client.js';
import { printable } from './columns.js';
import type { StateFlags } from './state.js';

export { backup };

interface Snapshot {
  readonly id: string;
  readonly moment: string;
  readonly at: string;
  readonly consistency: 'application' | 'filesystem' | 'quiet' | 'crash';
  readonly state: string;
  readonly why: string;
}

/** Whether SOURCE names a volume, not a path; a folder is no source. */
export function isVolume(source: string): boolean {
  if (source.includes('/')) return false;
  return statSync(source, { throwIfNoEntry: false })?.isDirectory() ?? true;
}

/** Throws what the daemon throws, and what a backup throws. */
export async function backupVolume(
  name: string,
  flags: StateFlags & { readonly to: string; readonly leaveUnused?: boolean },
  options: BackupOptions,
): Promise<BackupResult> {
  const client = new Client(flags);
  const path = `/volumes/${encodeURIComponent(name)}`;
  const volume = await client.ask<VolumeInfo>('GET', path);
  const { mount } = await client.ask<{ mount: string | null }>('GET', '/daemon');
  if (mount === null) {
    const hint = 'start it with --mount DIR';
    throw new AsofError('MOUNT_POINT', 'the daemon shows no disks, so that no snapshot can be read', hint);
  }
  const [snapshot] = await client.ask<Snapshot[]>('POST', '/snapshots', { volumes: [name] });
  let result: BackupResult | undefined;
  try {
    result = await backup(`${mount}/volumes/${volume.name}/${snapshot!.moment}/disk`, flags.to, options, {
      format: 'raw',
      sectorSize: volume.sectorSize === 4096 ? 4096 : 512,
      map: flags.leaveUnused,
      volume: { id: volume.id, name: volume.name, source: volume.origin },
      time: new Date(snapshot!.at),
      consistency: snapshot!.consistency,
      snapshot: snapshot!.id,
      allocation: 'holes',
      // Of a broken one no read can be believed, nor that a sector of it is bad.
      async changed() {
        const [now] = await client.ask<Snapshot[]>('GET', `/snapshots/${snapshot!.id}`);
        return now?.state === 'live' ? undefined : `the snapshot broke while it was read: ${now?.why}`;
      },
      async tracker(since) {
        try {
          const asked = `${path}/changes?${new URLSearchParams({ since, until: snapshot!.id })}`;
          const { extents, method, why } = await client.ask<ChangedEnd & { extents: Extent[] }>('GET', asked);
          if (method === 'none') return { extents: undefined, why };
          return { extents: extents.map(({ start, length }) => [start, length] as const), why };
        } catch (error) {
          if (!(error instanceof AsofError) || error.code !== 'SNAPSHOT_UNKNOWN') throw error;
          return { extents: undefined, why: 'the tracker does not know the snapshot of the base any more' };
        }
      },
    });
    return result;
  } finally {
    try {
      await client.ask('DELETE', `/snapshots/${snapshot!.id}`);
    } catch (error) {
      // The point is there; or what made it fail is told, and not this.
      const why = error instanceof Error ? error.message : String(error);
      const warning = `the snapshot ${snapshot!.id} stays: ${why}`;
      process.stderr.write(flags.json ? `${JSON.stringify({ warning })}\n` : `asof: ${printable(warning)}\n`);
    }
  }
}
