/**
 * From a request to snapshots that can be read: one moment of all its volumes, or one of each, in one job. Until the job is
 * done nothing of it is shown; of one that fails nothing is left. What it owes when the daemon is killed is written down before
 * (jobs.ts).
 */
import { randomUUID } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { AsofError, errnoOf } from '../errors.js';
import type { Logger } from '../log.js';
import type { Clock } from './clock.js';
import type { CommandRun } from './commands.js';
import { DRAIN_MS } from './hold.js';
import { failureOf, isAfter, runJob } from './job.js';
import type { Job, Jobs, Take } from './jobs.js';
import type { ProviderVolume, SnapshotProvider, Taken } from './provider.js';
import { providersFor, type Refusal } from './providers.js';
import { checkMoment, type MomentRequest, type QuiesceRecord, quiesce, refuseEarly } from './quiesce.js';
import type { Taker } from './sequence.js';
import type { SnapshotInfo } from './snapshot.js';
import { Timeline } from './timeline.js';
import type { Volume } from './volume.js';
import { writerNamed } from './writers/table.js';

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
  readonly jobs: Jobs;
}

/** A snapshot that has just been taken. */
export interface TakenSnapshot extends SnapshotInfo {
  /** What was wished of it, and is not so; absent where there is nothing of the kind. */
  readonly warnings?: readonly string[];
}

/** A provider's part in one moment. */
interface VolumesTaker extends Taker<Taken> {
  readonly provider: SnapshotProvider;
  readonly group: string;
  readonly ids: readonly string[];
  /** As it is written down. */
  readonly asked: Take;
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
): Promise<TakenSnapshot[]> {
  const { clock, log, stopping } = context;
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
  const uid = request.job ?? randomUUID();
  const commands = request.commands ?? {};
  const journal = context.jobs.begin(
    uid,
    clock.time(),
    sets.map(set => set.map(({ name, definition: { id } }) => ({ name, id }))),
    commands,
  );
  let infos: SnapshotInfo[] = [];
  try {
    const job = await runJob<{ name: string; id: string }, Unpublished>({
      clock,
      log,
      uid,
      commands,
      sets: journal.body.sets,
      journal,
      stopping,
      take: (set, uid) => {
        const members = set.map(({ id }) => named.get(id)!);
        return moment(members, orders.get(members[0]!)!, request, uid, journal, context);
      },
      publish: (taken, commands) =>
        context.exclusively(async () => {
          infos = publish(taken, commands, journal, context);
          await context.changed();
        }),
      discard: async taken => {
        journal.body.state = 'running';
        for (const { taker } of taken) taker.asked.left = true;
        journal.keep();
        for (const one of taken) await discard(one, log);
        await context.changed();
      },
      work: async () => {
        await context.work?.(infos);
      },
    });
    amend(job.taken, job.commands, job.marks, log);
    journal.finish('done', clock.time());
    return infos.map(info => {
      const of = job.taken.find(({ taker }) => taker.ids.includes(info.id))!;
      const { warnings } = of.records[of.taker.ids.indexOf(info.id)]!;
      return {
        ...info,
        ...(job.marks.length === 0 ? {} : { marks: job.marks }),
        ...(warnings.length === 0 ? {} : { warnings }),
      };
    });
  } catch (error) {
    journal.finish('failed', clock.time(), error);
    if (!(error instanceof AsofError)) throw error;
    const hint = `asof job show ${uid.slice(0, 8)} tells how it came about`;
    const both = error.hint === '' ? hint : `${error.hint}; ${hint}`;
    throw new AsofError(error.code, error.message, both, { cause: error });
  }
}

/** What the commands said when the snapshots were there already. */
function amend(
  taken: readonly Unpublished[],
  commands: readonly CommandRun[],
  marks: readonly string[],
  log: Logger,
): void {
  if (commands.length === 0) return;
  for (const { volumes, taker, records } of taken) {
    for (const [i, volume] of volumes.entries()) {
      try {
        if (volume.state === 'open') volume.amend(taker.ids[i]!, { ...records[i]!, commands, marks });
      } catch (error) {
        // The snapshot is there, and its record up to now.
        log.error({ err: error }, 'what the commands said is not kept');
      }
    }
  }
}

async function moment(
  volumes: readonly Volume[],
  order: readonly string[],
  request: MomentRequest,
  uid: string,
  job: Job,
  context: TakingContext,
): Promise<Unpublished> {
  const opened = volumes.map(volume => volume.opened());
  const { usable, refused } = await providersFor(opened, order, request.consistency);
  const names = volumes.map(({ name }) => name);
  const timeline = new Timeline(context.clock, context.log.child({ job: uid }));
  job.moment(names, timeline, refused);
  let takers: readonly VolumesTaker[] = [];
  const live = await Promise.all(volumes.map(volume => liveOf(volume, context.mountPoint)));
  const { taken, taker, records } = await quiesce({
    clock: context.clock,
    log: context.log,
    uid,
    subjects: opened.map((volume, i) => ({ volume, live: live[i] })),
    folders: context.folders,
    takers() {
      takers = usable.map(provider => takerOf(provider, opened, job, context.work ? volumes : []));
      job.body.takes.push(...takers.map(({ asked }) => asked));
      job.save();
      return takers;
    },
    refused,
    request,
    timeline,
    journal: {
      told(writers) {
        const told = writers.map(({ kind, settings = {} }) => {
          return { kind, settings, volumes: names, memos: [], released: false, why: '' };
        });
        // Of the others the hold ends with the daemon.
        const lasting = told.filter(({ kind }) => writerNamed(kind)?.recover);
        job.body.writers.push(...lasting);
        if (lasting.length > 0) job.save();
        return told;
      },
      save: () => job.save(),
      keep: () => job.keep(),
    },
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

/** From the first record on all of them are to be there: a start finishes what a killed daemon began. Throws IO. */
function publish(
  all: readonly Unpublished[],
  commands: readonly CommandRun[],
  job: Job,
  { log, work }: TakingContext,
): SnapshotInfo[] {
  const marks = commands.filter(({ stage, why }) => isAfter(stage) && why).map(failureOf);
  for (const { volumes, taker, records } of all) {
    for (const [i, volume] of volumes.entries()) {
      volume.opened();
      volume.note(taker.ids[i]!, { ...records[i]!, commands, marks });
    }
  }
  for (const { taker, taken } of all) {
    const { time, holdNs, switchNs, epochs } = taken;
    // What goes with its work is not to be there again after a kill.
    if (!work) taker.asked.there = { time, holdNs, switchNs, epochs: [...epochs] };
    taker.asked.left = false;
  }
  // One alone is there when it is recorded.
  if (!work && all.flatMap(({ volumes }) => volumes).length > 1) {
    job.body.state = 'there';
    job.save();
  }
  return all.flatMap(({ volumes, taken, taker, records }) => {
    const { provider, group, ids } = taker;
    const { holdNs, switchNs } = taken;
    log.info({ group, volumes: volumes.map(({ name }) => name), holdNs, switchNs }, 'snapshot');
    return volumes.map((volume, i) => {
      const { consistency } = records[i]!;
      const part = { group, groupSize: volumes.length, id: ids[i]!, epoch: taken.epochs[i]! };
      return volume.record(provider, taken, part, consistency, marks, work !== undefined);
    });
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
  job: Job,
  temporary: readonly Volume[],
): VolumesTaker {
  const requests = volumes.map(volume => ({ volume, id: randomUUID() }));
  const group = requests.length === 1 ? requests[0]!.id : randomUUID();
  const asked: Take = {
    provider: provider.name,
    group,
    members: requests.map(({ volume, id }) => ({ volume: volume.definition.id, id })),
    left: false,
    there: null,
  };
  return {
    name: provider.name,
    provider,
    group,
    asked,
    ids: requests.map(({ id }) => id),
    async take(timeoutMs) {
      // Until it is recorded, or undone: nobody else knows of it.
      asked.left = true;
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
      // Of a volume that is closed it is still there.
      if (ends.some(one => one.status === 'rejected')) return;
      asked.left = false;
      job.settle();
    },
  };
}
