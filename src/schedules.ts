/** Schedules over live volumes: what the configuration says of one, and what a scheduler asks of the volumes. */
import { atLeast } from './cow/consistency.js';
import { checkMoment, type MomentRequest } from './cow/quiesce.js';
import type { BackupPoint, Exposure, Schedule, ScheduledBackup } from './cow/schedule.js';
import type { Done, Point, Work } from './cow/scheduler.js';
import type { SnapshotInfo } from './cow/snapshot.js';
import type { TakenSnapshot } from './cow/taking.js';
import { type Timing, timingOf } from './cow/timing.js';
import type { Volumes } from './cow/volumes.js';
import { AsofError } from './errors.js';
import { requestOf } from './moment-request.js';
import type { OptionValues } from './option-schema.js';

/** As it stands in the configuration. */
export interface WrittenSchedule extends OptionValues {
  readonly volumes: readonly string[];
  readonly cron?: string;
  readonly every?: number | string;
  readonly timeZone?: string;
  readonly keep?: number;
  readonly separately?: boolean;
  /** Its folder absolute, its rate in bytes. */
  readonly backup?: ScheduledBackup;
  readonly writers?: readonly {
    readonly kind: string;
    readonly settings?: Readonly<Record<string, string | number | boolean>>;
  }[];
}

/** Throws USAGE. */
export function timingFor({ cron, every, timeZone }: WrittenSchedule): Timing {
  return timingOf({
    ...(cron === undefined ? {} : { cron }),
    ...(every === undefined ? {} : { every }),
    ...(timeZone === undefined ? {} : { timeZone }),
  });
}

/** Throws USAGE. */
export function scheduleOf(name: string, written: WrittenSchedule): Schedule {
  const {
    volumes,
    cron: _,
    every: __,
    timeZone: ___,
    keep,
    separately,
    backup,
    writers,
    providers,
    ...options
  } = written;
  const request: MomentRequest = {
    ...requestOf(options),
    ...(separately === undefined ? {} : { separately }),
    ...(writers === undefined
      ? {}
      : {
          writers: writers.map(({ kind, settings = {} }) => ({
            kind,
            settings: Object.fromEntries(Object.entries(settings).map(([key, one]) => [key, String(one)])),
          })),
        }),
  };
  if (backup && keep !== undefined) {
    throw new AsofError(
      'USAGE',
      'keep counts snapshots, of which a backup leaves none',
      'backup.keep has rules',
    );
  }
  // No time without writes is what it has where nothing is said.
  const { quietMs, ...rest } = request;
  checkMoment(quietMs === 0 ? rest : request);
  return {
    name,
    volumes,
    timing: timingFor(written),
    ...(keep === undefined ? {} : { keep }),
    ...(providers === undefined ? {} : { providers }),
    ...(backup === undefined ? {} : { backup }),
    request,
  };
}

type Take = (
  names: readonly string[],
  providers: readonly string[] | undefined,
  request: MomentRequest,
) => Promise<TakenSnapshot[]>;

/** `take` gives a request what the options say; `remove` refuses what somebody reads; `backup` runs one. */
export function workOn(
  volumes: Volumes,
  take: Take,
  remove: (group: string) => Promise<unknown>,
  backup: (schedule: Schedule & { readonly backup: ScheduledBackup }, job: string) => Promise<Done>,
): Work {
  return {
    async take(schedule, job) {
      const { volumes: names, providers, request } = schedule;
      if (schedule.backup) return backup({ ...schedule, backup: schedule.backup }, job);
      const taken = await take(names, providers, { ...request, job });
      return {
        groups: [...new Set(taken.map(({ group }) => group))],
        marks: [...new Set(taken.flatMap(({ marks }) => marks ?? []))],
        warnings: [...new Set(taken.flatMap(({ warnings }) => warnings ?? []))],
      };
    },
    points(wanted) {
      const all = volumes.snapshots();
      if ('job' in wanted) {
        const made = all.filter(one => jobOf(volumes, one) === wanted.job);
        return pointsOf(new Set(made.map(({ group }) => group)), all);
      }
      return pointsOf(new Set(wanted.groups), all);
    },
    async delete(group) {
      await remove(group);
    },
    exposure: ({ volumes: names, request, backup }, now, points) =>
      names.flatMap(name =>
        backup ? backupExposureOf(volumes, name, points ?? [], now) : exposureOf(volumes, name, request, now),
      ),
  };
}

function jobOf(volumes: Volumes, { volumeId, id }: SnapshotInfo): string | undefined {
  return volumes.get(volumeId).momentRecord(id)?.job;
}

function pointsOf(groups: ReadonlySet<string>, all: readonly SnapshotInfo[]): Point[] {
  return [...groups].flatMap(group => {
    const members = all.filter(one => one.group === group);
    if (members.length === 0) return [];
    const good = members.every(({ state }) => state === 'live');
    return [{ group, good, empty: members.every(({ state }) => state === 'none') }];
  });
}

/** The newest point that its last good run made. */
function backupExposureOf(
  volumes: Volumes,
  name: string,
  points: readonly BackupPoint[],
  now: number,
): Exposure[] {
  let names = [name];
  try {
    names = volumes.members([name]).map(volume => volume.name);
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
  }
  return names.map(volume => {
    const good = points.find(one => one.volume === volume);
    if (!good) return { volume, point: null, at: null, seconds: null };
    const seconds = Math.max(0, Math.round((now - Date.parse(good.time)) / 1000));
    return { volume, point: good.id, at: good.time, seconds };
  });
}

/** A good point is one that can be read, and is worth what the schedule asks for at least. */
function exposureOf(volumes: Volumes, name: string, request: MomentRequest, now: number): Exposure[] {
  const none = { point: null, at: null, seconds: null };
  let members: ReturnType<Volumes['members']>;
  try {
    members = volumes.members([name]);
  } catch (error) {
    if (error instanceof AsofError) return [{ volume: name, ...none }];
    throw error;
  }
  return members.map(volume => {
    const snapshots = volume.state === 'open' ? volume.snapshots() : [];
    const good = snapshots.findLast(
      one =>
        one.state === 'live' && !one.temporary && atLeast(one.consistency, request.consistency ?? 'crash'),
    );
    if (!good) return { volume: volume.name, ...none };
    const seconds = Math.max(0, Math.round((now - good.time) / 1000));
    return { volume: volume.name, point: good.id, at: good.at, seconds };
  });
}
