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
import { DRAIN_MS } from './hold.js';
import { runJob } from './job.js';
import type { ProviderVolume, SnapshotProvider, Taken } from './provider.js';
import { providersFor, type Refusal } from './providers.js';
import { checkMoment, type MomentRequest, type QuiesceRecord, quiesce, refuseEarly } from './quiesce.js';
import type { Taker } from './sequence.js';
import type { SnapshotInfo } from './snapshot.js';
import type { Volume } from './volume.js';

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
  /** What is done with the snapshots, which go when that is over; without it they stay. */
  readonly work?: ((infos: readonly SnapshotInfo[]) => Promise<void>) | undefined;
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

/** `orderOf`: the providers for one moment of volumes of these names, as they are tried. Throws what Volumes.snapshot throws. */
export async function takeSnapshots(
  volumes: readonly Volume[],
  orderOf: (names: readonly string[]) => readonly string[],
  request: MomentRequest,
  context: TakingContext,
): Promise<SnapshotInfo[]> {
  const { clock } = context;
  checkMoment(request);
  const sets = request.separately ? volumes.map(volume => [volume]) : [volumes];
  const orders = new Map<Volume, readonly string[]>();
  for (const set of sets) {
    const order = orderOf(set.map(({ name }) => name));
    await providersFor(
      set.map(volume => volume.opened()),
      order,
      request.consistency,
    );
    orders.set(set[0]!, order);
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
    take: (set, uid) => {
      const members = set.map(({ id }) => named.get(id)!);
      return moment(members, orders.get(members[0]!)!, request, uid, context);
    },
    publish: (taken, commands) =>
      context.exclusively(async () => {
        const made = taken.map(one => publish(one, commands, context));
        infos = made.flat();
        await context.changed();
      }),
    discard: async taken => {
      for (const one of taken) await discard(one, context.log);
      await context.changed();
    },
    work: async () => {
      await context.work?.(infos);
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
  order: readonly string[],
  request: MomentRequest,
  uid: string,
  context: TakingContext,
): Promise<Unpublished> {
  const opened = volumes.map(volume => volume.opened());
  const { usable, refused } = await providersFor(opened, order, request.consistency);
  const takers = usable.map(provider => takerOf(provider, opened, context.work ? volumes : []));
  const live = await Promise.all(volumes.map(volume => liveOf(volume, context.mountPoint)));
  const { taken, taker, records } = await quiesce({
    clock: context.clock,
    log: context.log,
    uid,
    subjects: opened.map((volume, i) => ({ volume, live: live[i] })),
    folders: context.folders,
    takers,
    refused,
    request,
    exclusively: work => context.exclusively(work),
    stopping: context.stopping,
  });
  const own = takers.find(one => one === taker)!;
  const { provider } = own;
  const nothing = { consistency: 'none' as const, why: `${provider.name} preserves nothing` };
  return {
    volumes,
    taken,
    taker: own,
    records: records.map(record => ({
      ...record,
      ...(provider.can.preserves ? {} : nothing),
      providers: triedOf(refused, record.providers, order),
      warnings: [...record.warnings, ...notGranted(provider, request, volumes.length)],
    })),
  };
}

function publish(
  { volumes, taken, taker, records }: Unpublished,
  commands: readonly CommandRun[],
  { log, work }: TakingContext,
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
    const epoch = taken.epochs[i]!;
    return volume.record(provider, taken, group, volumes.length, ids[i]!, epoch, record, work !== undefined);
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
  order: readonly string[],
): Refusal[] {
  const all = [...refused, ...tried].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  return all.slice(0, all.findIndex(({ why }) => why === '') + 1);
}

/** What was wished of the moment, and is not so with the provider that took it. */
function notGranted(provider: SnapshotProvider, request: MomentRequest, volumes: number): string[] {
  const { name, can } = provider;
  if (can.preserves) return [];
  const told = [...(request.writers ?? [])].map(({ kind }) => kind);
  return [
    `${name}: nothing was preserved; what is read of the live volume later is of no one moment`,
    ...(told.length > 0 ? [`${name}: ${told.join(', ')} held still for nothing that is kept`] : []),
    ...(volumes > 1 ? [`${name}: the ${volumes} volumes have no moment in common`] : []),
  ];
}

/** `temporary`: the volumes whose snapshots are to go again, in the order of `volumes`; none where they stay. */
function takerOf(
  provider: SnapshotProvider,
  volumes: readonly ProviderVolume[],
  temporary: readonly Volume[],
): VolumesTaker {
  const requests = volumes.map(volume => ({ volume, id: randomUUID() }));
  const group = requests.length === 1 ? requests[0]!.id : randomUUID();
  return {
    name: provider.name,
    provider,
    group,
    ids: requests.map(({ id }) => id),
    async take(timeoutMs) {
      const ms = Math.floor(timeoutMs);
      temporary.forEach((volume, i) => {
        volume.expectTemporary(requests[i]!.id);
      });
      try {
        return await provider.take(requests, group, ms);
      } catch (error) {
        if (errnoOf(error) !== 'ETIMEDOUT') throw error;
        const seconds = Math.min(DRAIN_MS, ms) / 1000;
        throw new Error(`writes under way did not end within ${seconds} seconds`, { cause: error });
      }
    },
    async undo() {
      // Of a member that is gone nothing is left; the others must not stay for that.
      const ends = await Promise.allSettled(
        requests.map(({ volume, id }) => provider.delete(volume, { id })),
      );
      const failed = ends.find(one => one.status === 'rejected' && errnoOf(one.reason) !== 'ESHUTDOWN');
      if (failed?.status === 'rejected') throw failed.reason;
      temporary.forEach((volume, i) => {
        volume.expectNone(requests[i]!.id);
      });
    },
  };
}
