/**
 * A schedule: which volumes, when, with which options, how many to keep; and what is remembered of it between two runs
 * (schedules.json, docs/formats.md).
 */
import type { MomentRequest } from './quiesce.js';
import type { Timing } from './timing.js';

export interface Schedule {
  readonly name: string;
  /** Names of volumes, and `@GROUP`: all of them are one moment, unless the request says otherwise. */
  readonly volumes: readonly string[];
  readonly timing: Timing;
  /** How many of its good points stay; all where absent. */
  readonly keep?: number;
  /** In the order in which they are tried. */
  readonly providers?: readonly string[];
  readonly request: MomentRequest;
  /** What becomes of the moment: points of a history, and the snapshots go; they stay where absent. */
  readonly backup?: ScheduledBackup;
}

/** What `asof backup` and `asof consolidate` are asked for. */
export interface ScheduledBackup {
  /** The folder of the history; absolute. */
  readonly to: string;
  readonly kind?: 'full' | 'incremental' | 'differential';
  readonly method?: 'auto' | 'tracked' | 'compared';
  /** `none`, `zstd`, `zstd:LEVEL`. */
  readonly compress?: string;
  /** Bytes a second. */
  readonly rate?: number;
  readonly ignoreReadErrors?: boolean;
  readonly allSectors?: boolean;
  readonly excludeSwap?: boolean;
  readonly label?: string;
  /** Which points of its volumes stay, by rules; all where absent. */
  readonly keep?: Readonly<
    Partial<Record<'last' | 'hourly' | 'daily' | 'weekly' | 'monthly' | 'yearly', number>>
  >;
}

/** A point that a backup has made. */
export interface BackupPoint {
  readonly volume: string;
  /** Of the point; and its files' name in the history. */
  readonly id: string;
  readonly stem: string;
  /** ISO 8601: the moment. */
  readonly time: string;
}

/**
 * done         the points are there
 * marked       they are, and a command afterwards failed
 * failed       there are none
 * interrupted  the daemon ended meanwhile
 */
export type Outcome = 'done' | 'marked' | 'failed' | 'interrupted';

export interface Run {
  /** Of the job: R_CALLBACK_UID. */
  readonly job: string;
  /** Milliseconds since 1970: when it was due; null for one that was asked for by hand. */
  readonly slot: number | null;
  readonly started: number;
  /** null where it was interrupted. */
  readonly ended: number | null;
  readonly outcome: Outcome;
  readonly why: string;
  /** Ids of the groups that it took. */
  readonly groups: readonly string[];
  /** Of a backup: the points of the history that it made. */
  readonly points?: readonly BackupPoint[];
  /** What was wished of its points and is not so; points that were to go and could not. */
  readonly warnings: readonly string[];
}

/** A slot that came while its schedule was still running. */
export interface Skipped {
  readonly slot: number;
  readonly why: string;
}

/** A run that is under way. */
export interface Begun extends Pick<Run, 'job' | 'slot' | 'started'> {
  /** 1, and 2 for the one that repeats an interrupted run. */
  readonly attempt: number;
}

/** Of schedules.json. */
export interface Kept {
  timing: string;
  /** The newest slot that was dealt with. */
  slot: number;
  paused: boolean;
  running: Begun | null;
  last: Run | null;
  /** The newest run that took points. */
  lastGood: Run | null;
  /** Runs that failed since. */
  failures: number;
  skipped: Skipped | null;
  skips: number;
  /** What it took and has not deleted, oldest first. */
  groups: string[];
}

/** How long ago a volume's last good point is: what would be lost now. */
export interface Exposure {
  readonly volume: string;
  /** The id of the point; null where there is none. */
  readonly point: string | null;
  /** ISO 8601. */
  readonly at: string | null;
  readonly seconds: number | null;
}

/** As it is told. Times are ISO 8601. */
export interface ScheduleInfo {
  readonly name: string;
  readonly volumes: readonly string[];
  readonly timing: string;
  readonly keep: number | null;
  /** The folder of the history that it backs up to; null where its snapshots stay. */
  readonly to: string | null;
  readonly state: 'waiting' | 'running' | 'paused';
  /** null where it is paused. */
  readonly next: string | null;
  readonly last: RunInfo | null;
  readonly lastGood: RunInfo | null;
  readonly failures: number;
  readonly skips: number;
  readonly skipped: { readonly slot: string; readonly why: string } | null;
  /** Its points that are there, oldest first. */
  readonly groups: readonly string[];
  readonly exposure: readonly Exposure[];
  /** Why what is told of its past may be incomplete; '' where it is not. */
  readonly trouble: string;
}

export interface RunInfo extends Omit<Run, 'slot' | 'started' | 'ended'> {
  readonly slot: string | null;
  readonly started: string;
  readonly ended: string | null;
}

export function runInfo(run: Run): RunInfo {
  const { slot, started, ended, ...rest } = run;
  return { ...rest, slot: iso(slot), started: iso(started)!, ended: iso(ended) };
}

export function iso(time: number | null): string | null {
  return time === null ? null : new Date(time).toISOString();
}
