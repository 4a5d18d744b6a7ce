/**
 * The answer of `POST /leases`: a line of JSON with the lease and its snapshots, and then nothing until the lease is over. Whoever
 * asked has the lease for as long as he holds the connection; where he is gone, killed or not, it ends.
 */
import { Readable } from 'node:stream';
import { AsofError } from '../errors.js';
import type { Lease, LiveVolumes } from '../volumes.js';

/** Runs that are told at once; the rest the next time. */
const RUNS_AT_ONCE = 4096;

export function leaseDocument(live: LiveVolumes, lease: Lease): Readable {
  const document = new Readable({
    read() {},
    destroy(error, done) {
      lease.end();
      done(error);
    },
  });
  document.push(`${JSON.stringify(live.leases.told(lease))}\n`);
  const end = () => document.push(null);
  lease.over.then(end, end);
  return document;
}

/** Throws LEASE_UNKNOWN, and what Volumes.drain throws. */
export async function drain(
  live: LiveVolumes,
  id: string,
  asked: {
    readonly snapshot: string;
    readonly extents: readonly { readonly start: number; readonly length: number }[];
  },
): Promise<{ readonly extents: readonly { readonly start: number; readonly length: number }[] }> {
  const { snapshots } = live.leases.get(id);
  const snapshot = snapshots.find(one => one.id === asked.snapshot);
  if (!snapshot) {
    throw new AsofError(
      'SNAPSHOT_UNKNOWN',
      `the lease ${id} has no snapshot ${JSON.stringify(asked.snapshot)}`,
    );
  }
  const given = Float64Array.from(asked.extents.flatMap(({ start, length }) => [start, length]));
  const kept = await live.volumes.drain(snapshot.id, given, RUNS_AT_ONCE);
  return {
    extents: Array.from({ length: kept.length / 2 }, (_, i) => ({
      start: kept[i * 2]!,
      length: kept[i * 2 + 1]!,
    })),
  };
}
