/** Schedules over live volumes: what the configuration says of one, and what a scheduler asks of the volumes. */
import { atLeast } from './cow/consistency.js';
import { checkMoment, type MomentRequest } from './cow/quiesce.js';
import type { Exposure, Schedule } from './cow/schedule.js';
import type { Point, Work } from './cow/scheduler.js';
import type { SnapshotInfo } from './cow/snapshot.js';
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
  // No time without writes is what it has where nothing is said.
  const { quietMs, ...rest } = request;
  checkMoment(quietMs === 0 ? rest : request);
  return {
    name,
    volumes,
    timing: timingFor(written),
    ...(keep === undefined ? {} : { keep }),
    ...(providers === undefined ? {} : { providers }),
    request,
  };
}

type Take = (
  names: readonly string[],
  providers: readonly string[] | undefined,
  request: MomentRequest,
) => Promise<SnapshotInfo[]>;

/** `take` gives a request what the options say; `remove` refuses what somebody reads. */
export function workOn(volumes: Volumes, take: Take, remove: (group: string) => Promise<unknown>): Work {
  return {
    async take({ volumes: names, providers, request }, job) {
      const taken = await take(names, providers, { ...request, job });
      return {
        groups: [...new Set(taken.map(({ group }) => group))],
        marks: [...new Set(taken.flatMap(({ marks }) => marks ?? []))],
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
    exposure: ({ volumes: names, request }, now) =>
      names.flatMap(name => exposureOf(volumes, name, request, now)),
  };
}

function jobOf(volumes: Volumes, { volumeId, id }: SnapshotInfo): string | undefined {
  return volumes.get(volumeId).momentRecord(id)?.job;
}

function pointsOf(groups: ReadonlySet<string>, all: readonly SnapshotInfo[]): Point[] {
  return [...groups].flatMap(group => {
    const members = all.filter(one => one.group === group);
    if (members.length === 0) return [];
    return [{ group, good: members.every(({ state }) => state === 'live') }];
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
      one => one.state === 'live' && atLeast(one.consistency, request.consistency ?? 'crash'),
    );
    if (!good) return { volume: volume.name, ...none };
    const seconds = Math.max(0, Math.round((now - good.time) / 1000));
    return { volume: volume.name, point: good.id, at: good.at, seconds };
  });
}
