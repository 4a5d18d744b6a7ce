/**
 * Leases: moments that somebody has to himself for as long as he works with them, a backup. Its snapshots are nobody else's: the
 * owner may give ranges of them back, which are errors for everybody from then on, and they go with the lease, whatever
 * became of it. The commands BEFORE_BACKUP and AFTER_BACKUP stand around all of it.
 *
 *   begun → (drained)* → ended, or its owner is gone, or the daemon stops → the snapshots are deleted → AFTER_BACKUP → over
 */
import { randomUUID } from 'node:crypto';
import type { MomentRequest } from './cow/quiesce.js';
import type { SnapshotInfo } from './cow/snapshot.js';
import type { Volumes } from './cow/volumes.js';
import { AsofError } from './errors.js';

export interface Lease {
  /** R_CALLBACK_UID of its commands. */
  readonly id: string;
  readonly snapshots: readonly SnapshotInfo[];
  /** When its snapshots are gone and the last command has run: those that failed. Rejects where the daemon stops first. */
  readonly over: Promise<readonly string[]>;
  /** The owner needs them no longer. */
  readonly end: () => void;
}

/** As its owner is told of it. */
export interface LeaseInfo {
  readonly lease: string;
  readonly snapshots: readonly (SnapshotInfo & {
    /** Ranges of it can be given back, in whole chunks of so many bytes. */
    readonly drains: boolean;
    readonly chunkSize: number;
  })[];
}

export class Leases {
  readonly #volumes: Volumes;
  readonly #complete: (request: MomentRequest) => MomentRequest;
  readonly #all = new Map<string, Lease>();

  /** `complete` gives a request what the options say. */
  constructor(volumes: Volumes, complete: (request: MomentRequest) => MomentRequest) {
    this.#volumes = volumes;
    this.#complete = complete;
  }

  told({ id, snapshots }: Lease): LeaseInfo {
    return {
      lease: id,
      snapshots: snapshots.map(one => {
        const volume = this.#volumes.get(one.volumeId);
        return { ...one, drains: volume.drains(one.id), chunkSize: volume.definition.chunkSize };
      }),
    };
  }

  /** Throws what taking snapshots throws. */
  begin(
    names: readonly string[],
    providers: readonly string[] | undefined,
    request: MomentRequest,
  ): Promise<Lease> {
    const id = request.job ?? randomUUID();
    return new Promise((begun, failed) => {
      const over: Promise<readonly string[]> = this.#volumes.withSnapshots(
        names,
        providers,
        this.#complete({ ...request, job: id }),
        snapshots =>
          new Promise(end => {
            const lease = { id, snapshots, over, end };
            this.#all.set(id, lease);
            begun(lease);
          }),
      );
      over.catch(failed).finally(() => this.#all.delete(id));
    });
  }

  /** Throws LEASE_UNKNOWN. */
  get(id: string): Lease {
    const lease = this.#all.get(id);
    if (lease) return lease;
    throw new AsofError('LEASE_UNKNOWN', `there is no lease ${JSON.stringify(id)}; it may be over`);
  }
}
