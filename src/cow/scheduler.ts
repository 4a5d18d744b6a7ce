/**
 * Runs schedules. Invariants:
 *
 * - A slot is dealt with once: it is written down before its run begins. What was missed (the daemon was down, the machine
 *   slept, the clock was set forward) is made up for by one run, however many slots it were.
 * - A schedule never overlaps itself: a slot that comes while it runs is skipped, and that is recorded.
 * - A run that the daemon's end interrupted counts as missed, once: one that ends the daemon every time must not do so for
 *   ever. Points that it took all the same are known by its job.
 * - What a schedule deletes is what it took itself, and never one of the newest `keep` that can be read, nor, of moments of
 *   which nothing was preserved, one of the newest `keep`.
 *
 * Nobody tells of a machine's sleep or of a clock that is set, and timers stand still meanwhile: the clock is looked at every
 * half minute.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import { command } from '../shell.js';
import type { Clock } from './clock.js';
import {
  type BackupPoint,
  type Exposure,
  iso,
  type Kept,
  type Outcome,
  type Run,
  runInfo,
  type Schedule,
  type ScheduleInfo,
} from './schedule.js';
import { readState, writeState } from './state-file.js';
import { messageOf } from './timeline.js';

/** Milliseconds between two looks at the clock, at most. */
const LOOK_MS = 30_000;
/** Milliseconds that the clock may go back without having been set: it is slewed all the time. */
const SLEWED_MS = 1000;
const KIND = 'schedules';

/** A point that a schedule took: a group of snapshots. */
export interface Point {
  readonly group: string;
  /** All its members can be read. */
  readonly good: boolean;
  /** Nothing was preserved of it, by a provider of which nothing else was expected. */
  readonly empty: boolean;
}

/** Ids of the groups that were taken; marks are after-commands that failed. */
export interface Done {
  readonly groups: readonly string[];
  readonly marks: readonly string[];
  /** Of a backup. */
  readonly points?: readonly BackupPoint[];
  readonly warnings?: readonly string[];
}

/** What a scheduler needs of the volumes. */
export interface Work {
  take(schedule: Schedule, job: string): Promise<Done>;
  /** Those of `groups` that are there, or all of a job. */
  points(wanted: { readonly groups: readonly string[] } | { readonly job: string }): readonly Point[];
  delete(group: string): Promise<void>;
  /** `points`: what its last good backup made; undefined where it has made none. */
  exposure(schedule: Schedule, now: number, points: readonly BackupPoint[] | undefined): readonly Exposure[];
}

export interface SchedulerOptions {
  /** The state directory. */
  readonly folder: string;
  readonly schedules: readonly Schedule[];
  readonly clock: Clock;
  readonly log: Logger;
  readonly work: Work;
}

interface Entry {
  readonly schedule: Schedule;
  readonly kept: Kept;
  running: Promise<Run> | undefined;
  /** Its last run was interrupted, and is made up for. */
  again: boolean;
}

export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #entries = new Map<string, Entry>();
  /** Of schedules that are in the configuration no longer. */
  readonly #others: ReadonlyMap<string, Kept>;
  /** Why the past is not known; why the present is not kept. */
  readonly #lost: string = '';
  #unsaved = '';
  /** At the last look. */
  #seen: { readonly now: number; readonly time: number };
  #cancel = () => {};
  #closed = false;

  /** Brings back what is remembered. Nothing runs before `start`. */
  constructor(options: SchedulerOptions) {
    this.#options = options;
    const { clock, log, schedules } = options;
    this.#seen = { now: clock.now(), time: clock.time() };
    const read = readState<{ schedules: Record<string, Kept> }>(this.#path, KIND);
    const found = new Map('body' in read ? Object.entries(read.body.schedules) : []);
    if ('trouble' in read && !read.missing) {
      this.#lost = `what schedules did before is not known: ${read.trouble}`;
      log.warn({ why: read.trouble }, this.#lost);
    }
    for (const schedule of schedules) {
      this.#entries.set(schedule.name, this.#entryOf(schedule, found.get(schedule.name)));
      found.delete(schedule.name);
    }
    this.#others = found;
  }

  get #path(): string {
    return join(this.#options.folder, 'schedules.json');
  }

  #entryOf(schedule: Schedule, before: Kept | undefined): Entry {
    const time = this.#seen.time;
    const { timing } = schedule;
    if (!before) {
      const kept: Kept = {
        timing: timing.text,
        slot: timing.first(time),
        paused: false,
        running: null,
        last: null,
        lastGood: null,
        failures: 0,
        skipped: null,
        skips: 0,
        groups: [],
      };
      return { schedule, kept, running: undefined, again: false };
    }
    const kept = structuredClone(before);
    // Slots of another timing were never missed.
    if (kept.timing !== timing.text) kept.slot = time;
    else if (kept.slot > time) kept.slot = timing.putBack(kept.slot, time, 0);
    kept.timing = timing.text;
    const entry: Entry = { schedule, kept, running: undefined, again: false };
    if (kept.running) this.#interrupted(entry, kept.running);
    return entry;
  }

  #interrupted(entry: Entry, { attempt, ...begun }: NonNullable<Kept['running']>): void {
    const { kept } = entry;
    const groups = this.#options.work.points({ job: begun.job }).map(({ group }) => group);
    kept.last = {
      ...begun,
      ended: null,
      outcome: 'interrupted',
      why: 'the daemon ended meanwhile',
      groups,
      warnings: [],
    };
    kept.groups.push(...groups.filter(group => !kept.groups.includes(group)));
    kept.failures++;
    kept.running = null;
    entry.again = begun.slot !== null && attempt === 1;
    this.#options.log.warn({ schedule: entry.schedule.name, job: begun.job }, 'a schedule was interrupted');
  }

  start(): void {
    if (this.#closed) return;
    this.#save();
    this.#look();
  }

  /** By name. */
  list(): ScheduleInfo[] {
    return [...this.#entries.values()]
      .sort((a, b) => (a.schedule.name < b.schedule.name ? -1 : 1))
      .map(entry => this.#info(entry));
  }

  /** Throws SCHEDULE_UNKNOWN. */
  show(name: string): ScheduleInfo {
    return this.#info(this.#entry(name));
  }

  /** Runs it now, paused or not, and resolves when that is over. Throws SCHEDULE_UNKNOWN, SCHEDULE_RUNNING, and why it failed. */
  async run(name: string): Promise<ScheduleInfo> {
    const entry = this.#entry(name);
    if (this.#closed) throw new AsofError('DAEMON_MISSING', 'the daemon is being stopped');
    if (entry.running) {
      throw new AsofError(
        'SCHEDULE_RUNNING',
        `the schedule ${name} is running since ${iso(entry.kept.running?.started ?? null)}`,
        command`asof schedule show ${name}`,
      );
    }
    let cause: unknown;
    const run = await this.#begin(entry, null, error => {
      cause = error;
    });
    if (run.outcome === 'failed') throw cause;
    return this.#info(entry);
  }

  /** Throws SCHEDULE_UNKNOWN. */
  pause(name: string): ScheduleInfo {
    const entry = this.#entry(name);
    entry.kept.paused = true;
    entry.again = false;
    this.#save();
    return this.#info(entry);
  }

  /** What would have run meanwhile is not made up for. Throws SCHEDULE_UNKNOWN. */
  resume(name: string): ScheduleInfo {
    const entry = this.#entry(name);
    const { kept, schedule } = entry;
    const time = this.#options.clock.time();
    if (kept.paused) kept.slot = schedule.timing.due(kept.slot, time) ?? kept.slot;
    kept.paused = false;
    this.#save();
    this.#look();
    return this.#info(entry);
  }

  /** Nothing begins any more. */
  stop(): void {
    this.#closed = true;
    this.#cancel();
  }

  /** When what is running is over. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#entries.values()].map(({ running }) => running));
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    const known = [...this.#entries.keys()].join(', ');
    throw new AsofError(
      'SCHEDULE_UNKNOWN',
      `there is no schedule ${JSON.stringify(name)}`,
      known === '' ? 'schedules are named in the configuration: docs/config.md' : `there are ${known}`,
    );
  }

  /** Looks at the clock: begins what is due, and sets the next look. */
  #look(): void {
    if (this.#closed) return;
    this.#cancel();
    const { clock } = this.#options;
    const time = clock.time();
    this.#follow(clock.now(), time);
    let next = time + LOOK_MS;
    for (const entry of this.#entries.values()) {
      this.#meet(entry, time);
      if (!entry.kept.paused) next = Math.min(next, entry.schedule.timing.next(entry.kept.slot));
    }
    this.#cancel = clock.after(Math.max(0, next - time), () => this.#look());
  }

  /** A clock that was put back: forward it cannot be told from a sleep, and need not be. */
  #follow(now: number, time: number): void {
    const back = now - this.#seen.now - (time - this.#seen.time);
    this.#seen = { now, time };
    if (back < SLEWED_MS) return;
    for (const { kept, schedule } of this.#entries.values()) {
      kept.slot = schedule.timing.putBack(kept.slot, time, back);
    }
    this.#options.log.info({ seconds: Math.round(back / 1000) }, 'the clock was put back');
    this.#save();
  }

  #meet(entry: Entry, time: number): void {
    const { kept, schedule } = entry;
    const slot = schedule.timing.due(kept.slot, time);
    const again = entry.again;
    entry.again = false;
    if (slot !== undefined) kept.slot = slot;
    if (kept.paused || (slot === undefined && !again)) return;
    if (!entry.running) {
      // Its outcome is recorded; nobody waits for it.
      this.#begin(entry, slot ?? kept.last!.slot, () => {}, slot === undefined ? 2 : 1);
      return;
    }
    const why = `the run of ${iso(kept.running!.started)} was still going`;
    kept.skipped = { slot: slot!, why };
    kept.skips++;
    this.#options.log.warn({ schedule: schedule.name, slot: iso(slot!) }, `skipped: ${why}`);
    this.#save();
  }

  /** Never rejects. */
  #begin(entry: Entry, slot: number | null, failed: (error: unknown) => void, attempt = 1): Promise<Run> {
    const { clock } = this.#options;
    const begun = { job: randomUUID(), slot, started: clock.time() };
    entry.kept.running = { ...begun, attempt };
    this.#save();
    const running = this.#run(entry, begun, failed).finally(() => {
      entry.running = undefined;
    });
    entry.running = running;
    return running;
  }

  async #run(
    entry: Entry,
    begun: Pick<Run, 'job' | 'slot' | 'started'>,
    failed: (error: unknown) => void,
  ): Promise<Run> {
    const { kept, schedule } = entry;
    const { clock, log, work } = this.#options;
    const about = { schedule: schedule.name, job: begun.job };
    let outcome: Outcome = 'done';
    let why = '';
    let groups: readonly string[] = [];
    let points: readonly BackupPoint[] | undefined;
    let warnings: readonly string[] = [];
    log.info(about, 'a schedule runs');
    try {
      const taken = await work.take(schedule, begun.job);
      groups = taken.groups;
      if (taken.marks.length > 0) {
        outcome = 'marked';
        why = taken.marks.join('; ');
      }
      kept.groups.push(...groups);
      points = taken.points;
      warnings = [...(taken.warnings ?? []), ...(await this.#thin(entry))];
    } catch (error) {
      failed(error);
      outcome = 'failed';
      why = messageOf(error);
    }
    const made = points && { points };
    const run: Run = { ...begun, ended: clock.time(), outcome, why, groups, ...made, warnings };
    // A run that failed because the daemon ends stands as begun: the next start makes up for it.
    if (this.#closed && outcome === 'failed') return run;
    kept.running = null;
    kept.last = run;
    if (outcome === 'failed') kept.failures++;
    else {
      kept.failures = 0;
      kept.lastGood = run;
    }
    this.#save();
    if (outcome === 'done') log.info({ ...about, groups, warnings }, 'a schedule is done');
    else
      log.error({ ...about, why, warnings }, `a schedule ${outcome === 'failed' ? 'failed' : 'is marked'}`);
    return run;
  }

  /**
   * Deletes what is older than the newest `keep` good ones, and of those of which nothing was preserved all but the newest
   * `keep`; what cannot go is told, and tried again.
   */
  async #thin({ kept, schedule }: Entry): Promise<string[]> {
    const { work } = this.#options;
    const there = new Map(work.points({ groups: kept.groups }).map(point => [point.group, point]));
    kept.groups = kept.groups.filter(group => there.has(group));
    if (schedule.keep === undefined) return [];
    const good = kept.groups.filter(group => there.get(group)!.good);
    const oldest = good[good.length - schedule.keep];
    const end = oldest === undefined ? 0 : kept.groups.indexOf(oldest);
    const empty = kept.groups.slice(end).filter(group => there.get(group)!.empty);
    const surplus = empty.slice(0, Math.max(0, empty.length - schedule.keep));
    const warnings: string[] = [];
    for (const group of [...kept.groups.slice(0, end), ...surplus]) {
      try {
        await work.delete(group);
        kept.groups = kept.groups.filter(one => one !== group);
      } catch (error) {
        warnings.push(`${group} could not be deleted: ${messageOf(error)}`);
      }
    }
    return warnings;
  }

  /** It goes on where this fails: a point more is better than one less. */
  #save(): void {
    const schedules = {
      ...Object.fromEntries(this.#others),
      ...Object.fromEntries([...this.#entries].map(([name, { kept }]) => [name, kept])),
    };
    try {
      writeState(this.#path, KIND, { schedules });
      this.#unsaved = '';
    } catch (error) {
      this.#unsaved = messageOf(error);
      this.#options.log.error({ err: error }, 'what schedules do is not kept');
    }
  }

  #info({ schedule, kept, running }: Entry): ScheduleInfo {
    const { work, clock } = this.#options;
    const { name, volumes, timing, keep, backup } = schedule;
    const { paused, last, lastGood, failures, skips, skipped } = kept;
    const there = new Set(work.points({ groups: kept.groups }).map(({ group }) => group));
    return {
      name,
      volumes,
      timing: timing.text,
      keep: keep ?? null,
      to: backup?.to ?? null,
      state: running ? 'running' : paused ? 'paused' : 'waiting',
      next: paused ? null : iso(timing.next(kept.slot)),
      last: last && runInfo(last),
      lastGood: lastGood && runInfo(lastGood),
      failures,
      skips,
      skipped: skipped && { slot: iso(skipped.slot)!, why: skipped.why },
      groups: kept.groups.filter(group => there.has(group)),
      exposure: work.exposure(schedule, clock.time(), lastGood?.points),
      trouble: [this.#lost, this.#unsaved].filter(Boolean).join('; '),
    };
  }
}
