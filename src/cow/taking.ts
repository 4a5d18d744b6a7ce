/**
 * From a request to snapshots that can be read: one moment of all its volumes, or one of each, in one job. Until the job is
 * done nothing of it is shown; of one that fails nothing is left.
 */
import { randomUUID } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { errnoOf } from '../errors.js';
import type { Logger } from '../log.js';
import type { Clock } from './clock.js';
import type { CommandRun } from './commands.js';
import { runJob } from './job.js';
import type { ProviderVolume, SnapshotProvider, Taken } from './provider.js';
import { PROVIDERS, providersFor, type Refusal } from './providers.js';
import { checkMoment, type MomentRequest, type QuiesceRecord, quiesce, refuseEarly } from './quiesce.js';
import type { Taker } from './sequence.js';
import type { SnapshotInfo } from './snapshot.js';
import type { Volume } from './volume.js';

/** Milliseconds that writes under way may take to end before a snapshot is given up. */
const HOLD_MS = 10_000;

/** What a job needs of whom it works for. */
export interface TakingContext {
  readonly log: Logger;
  readonly clock: Clock;
  /** Where live devices are shown; undefined where they are not. */
  readonly mountPoint: string | undefined;
  /** Where the daemon writes beside its open files. */
  readonly folders: readonly string[];
  /** Nobody else changes any volume meanwhile. */
  readonly exclusively: <R>(work: () => Promise<R>) => Promise<R>;
  readonly changed: () => Promise<void>;
  readonly stopping: AbortSignal;
}

/** A provider's part in one moment. */
interface VolumesTaker extends Taker<Taken> {
  readonly provider: SnapshotProvider;
  readonly group: string;
  readonly ids: readonly string[];
}

/** A moment that nobody can read yet. */
interface Unpublished {
  readonly volumes: readonly Volume[];
  readonly taken: Taken;
  readonly taker: VolumesTaker;
  readonly records: readonly QuiesceRecord[];
}

/** Throws what Volumes.snapshot throws. */
export async function takeSnapshots(
  volumes: readonly Volume[],
  providers: readonly string[] | undefined,
  request: MomentRequest,
  context: TakingContext,
): Promise<SnapshotInfo[]> {
  const { clock } = context;
  checkMoment(request);
  const sets = request.separately ? volumes.map(volume => [volume]) : [volumes];
  for (const set of sets) {
    await providersFor(
      set.map(volume => volume.opened()),
      providers,
    );
  }
  if (request.freeze ?? true) {
    await refuseEarly(
      await Promise.all(volumes.map(volume => liveOf(volume, context.mountPoint))),
      context.folders,
    );
  }
  const named = new Map(volumes.map(volume => [volume.definition.id, volume]));
  let infos: SnapshotInfo[] = [];
  const job = await runJob<{ name: string; id: string }, Unpublished>({
    clock,
    log: context.log,
    uid: request.job,
    commands: request.commands ?? {},
    sets: sets.map(set => set.map(({ name, definition: { id } }) => ({ name, id }))),
    take: (set, uid) =>
      moment(
        set.map(({ id }) => named.get(id)!),
        providers,
        request,
        uid,
        context,
      ),
    publish: (taken, commands) =>
      context.exclusively(async () => {
        const made = taken.map(one => publish(one, commands, context.log));
        infos = made.flat();
        await context.changed();
      }),
    discard: async taken => {
      for (const one of taken) await discard(one, context.log);
      await context.changed();
    },
  });
  if (job.commands.length === 0) return infos;
  for (const { volumes, taker, records } of job.taken) {
    for (const [i, volume] of volumes.entries()) {
      const record = { ...records[i]!, commands: job.commands, marks: job.marks };
      try {
        if (volume.state === 'open') volume.amend(taker.ids[i]!, record);
      } catch (error) {
        // The snapshot is there, and its record up to now.
        context.log.error({ err: error }, 'what the commands said is not kept');
      }
    }
  }
  return job.marks.length === 0 ? infos : infos.map(info => ({ ...info, marks: job.marks }));
}

async function moment(
  volumes: readonly Volume[],
  providers: readonly string[] | undefined,
  request: MomentRequest,
  uid: string,
  context: TakingContext,
): Promise<Unpublished> {
  const opened = volumes.map(volume => volume.opened());
  const { usable, refused } = await providersFor(opened, providers);
  const takers = usable.map(provider => takerOf(provider, opened));
  const live = await Promise.all(volumes.map(volume => liveOf(volume, context.mountPoint)));
  const { taken, taker, records } = await quiesce({
    clock: context.clock,
    log: context.log,
    uid,
    subjects: opened.map((volume, i) => ({ volume, live: live[i] })),
    folders: context.folders,
    takers,
    request,
    exclusively: work => context.exclusively(work),
    stopping: context.stopping,
  });
  return {
    volumes,
    taken,
    taker: takers.find(one => one === taker)!,
    records: records.map(record => ({
      ...record,
      providers: triedOf(refused, record.providers, providers),
    })),
  };
}

function publish(
  { volumes, taken, taker, records }: Unpublished,
  commands: readonly CommandRun[],
  log: Logger,
): SnapshotInfo[] {
  const { provider, group, ids } = taker;
  const marks = commands
    .filter(({ stage, why }) => stage.startsWith('AFTER') && why)
    .map(({ stage, why }) => `the command ${stage} failed: ${why}`);
  for (const volume of volumes) volume.opened();
  const { holdNs, switchNs } = taken;
  log.info({ group, volumes: volumes.map(({ name }) => name), holdNs, switchNs }, 'snapshot');
  return volumes.map((volume, i) => {
    const record = { ...records[i]!, commands, marks };
    return volume.record(provider, taken, group, volumes.length, ids[i]!, taken.epochs[i]!, record);
  });
}

/** Of members that are shown already as well: they go together. */
async function discard({ volumes, taker }: Unpublished, log: Logger): Promise<void> {
  const steps = [
    ...volumes.map((volume, i) => () => volume.state === 'open' && volume.delete(taker.ids[i]!)),
    () => taker.undo(),
  ];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      log.error({ err: error }, 'what is left of a failed job could not be deleted');
    }
  }
}

/** As the kernel names it where somebody attaches it to a loop device. */
async function liveOf(volume: Volume, mountPoint: string | undefined): Promise<string | undefined> {
  if (mountPoint === undefined) return undefined;
  const real = await realpath(mountPoint).catch(() => mountPoint);
  return `${real}/volumes/${volume.name}/live`;
}

/** Up to the one that took it, in the order in which they were to be tried. */
function triedOf(
  refused: readonly Refusal[],
  tried: readonly Refusal[],
  names: readonly string[] | undefined,
): Refusal[] {
  const order = names ?? PROVIDERS.map(({ name }) => name);
  const all = [...refused, ...tried].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  return all.slice(0, all.findIndex(({ why }) => why === '') + 1);
}

function takerOf(provider: SnapshotProvider, volumes: readonly ProviderVolume[]): VolumesTaker {
  const requests = volumes.map(volume => ({ volume, id: randomUUID() }));
  const group = requests.length === 1 ? requests[0]!.id : randomUUID();
  return {
    name: provider.name,
    provider,
    group,
    ids: requests.map(({ id }) => id),
    async take(timeoutMs) {
      const ms = Math.floor(Math.min(HOLD_MS, timeoutMs));
      try {
        return await provider.take(requests, group, ms);
      } catch (error) {
        if (errnoOf(error) !== 'ETIMEDOUT') throw error;
        throw new Error(`writes under way did not end within ${ms / 1000} seconds`, { cause: error });
      }
    },
    async undo() {
      // Of a member that is gone nothing is left; the others must not stay for that.
      const ends = await Promise.allSettled(
        requests.map(({ volume, id }) => provider.delete(volume, { id })),
      );
      const failed = ends.find(one => one.status === 'rejected' && errnoOf(one.reason) !== 'ESHUTDOWN');
      if (failed?.status === 'rejected') throw failed.reason;
    },
  };
}
