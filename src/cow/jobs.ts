/**
 * What is kept of jobs (docs/formats.md, jobs/<uuid>.json). A job is written down before it begins anything that outlives the
 * daemon: a command, a writer that is told to hold, a snapshot that is asked of a provider. So the next start knows what a
 * daemon that was killed owes, and what it left.
 *
 *   running → [there →] done         there: its snapshots are being recorded, and are to be there, all of them, whatever happens
 *           → failed                 nothing of it is there
 *   running, there → interrupted     the daemon ended meanwhile, and a start has done what was owed
 *
 * One that is done has its record with its snapshots and is kept only while it has left something with a provider; of the
 * others the newest are kept.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import type { CommandRun, Commands, Named, Stage } from './commands.js';
import { readState, removeState, writeState } from './state-file.js';
import { messageOf, type Step, type Timeline, type Transition } from './timeline.js';

const KIND = 'job';

/** Ended jobs that are kept. */
const KEPT = 100;

export type JobState = 'running' | 'there' | 'done' | 'failed' | 'interrupted';

/** A command that was begun. */
export interface BegunCommand {
  readonly stage: Stage;
  readonly command: string;
  /** Their names. */
  readonly volumes: readonly string[];
  /** Milliseconds since 1970. */
  readonly began: number;
  /** How often it was begun: once more by the start after a daemon that ended meanwhile. */
  attempts: number;
  /** null where it runs, or ended with the daemon. */
  ran: CommandRun | null;
}

/** A writer that was told, and must be told again where the daemon is gone before it said that it is over. */
export interface ToldWriter {
  readonly kind: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly volumes: readonly string[];
  /** What it has to know for that. */
  readonly memos: string[];
  released: boolean;
  /** Why its release failed. */
  why: string;
}

export interface TakeMember {
  /** The id of the volume. */
  readonly volume: string;
  readonly id: string;
}

/** What a provider was asked for. */
export interface Take {
  readonly provider: string;
  readonly group: string;
  readonly members: readonly TakeMember[];
  /** Whether something of it may be there that is not wanted. */
  left: boolean;
  /** Where it is the one that is to be there: what is recorded of it. */
  there: {
    readonly time: number;
    readonly holdNs: number;
    readonly switchNs: number;
    epochs: number[];
  } | null;
}

/** A moment of the job, as far as it came. */
export interface JobMoment {
  readonly volumes: readonly string[];
  readonly transitions: readonly Transition[];
  readonly steps: readonly Step[];
  /** Providers of the order that could not take it at all. */
  readonly refused: readonly { readonly name: string; readonly why: string }[];
}

export interface StoredJob {
  /** R_CALLBACK_UID. */
  readonly uid: string;
  /** Milliseconds since 1970. */
  readonly started: number;
  ended: number | null;
  state: JobState;
  /** Of the error, and its message; '' where there is none. */
  code: string;
  why: string;
  /** Volumes that are one moment stand together. */
  readonly sets: readonly (readonly Named[])[];
  readonly commands: Commands;
  readonly runs: BegunCommand[];
  readonly writers: ToldWriter[];
  readonly takes: Take[];
  readonly moments: JobMoment[];
}

/** As it is told. Times are ISO 8601. */
export interface JobInfo {
  readonly job: string;
  readonly volumes: readonly string[];
  readonly state: JobState;
  readonly started: string;
  readonly ended: string | null;
  readonly code: string;
  readonly why: string;
  readonly moments: readonly (Omit<JobMoment, 'refused'> & {
    /** In the order in which they were tried, and why the snapshot is not theirs. */
    readonly providers: readonly { readonly name: string; readonly why: string }[];
  })[];
  readonly commands: readonly (Omit<BegunCommand, 'began' | 'ran'> &
    Pick<CommandRun, 'code' | 'signal' | 'why' | 'output' | 'took'> & { readonly began: string })[];
  readonly writers: readonly { readonly kind: string; readonly released: boolean; readonly why: string }[];
  /** Snapshots that may be there still: they go when their provider answers, or at the next start. */
  readonly left: readonly { readonly provider: string; readonly id: string }[];
}

/** The jobs of a state directory. */
export class Jobs {
  readonly #folder: string;
  readonly #log: Logger;
  readonly #all = new Map<string, Job>();

  /** Brings back what is kept. What cannot be read is told, and left where it is. */
  constructor(state: string, log: Logger) {
    this.#folder = join(state, 'jobs');
    this.#log = log;
    if (!existsSync(this.#folder)) return;
    for (const name of readdirSync(this.#folder).filter(one => one.endsWith('.json'))) {
      const read = readState<StoredJob>(join(this.#folder, name), KIND);
      if ('trouble' in read) log.warn({ why: read.trouble }, 'what is known of a job cannot be read');
      else this.#all.set(basename(name, '.json'), new Job(this, read.body));
    }
  }

  /** The newest first. */
  list(): Job[] {
    return [...this.#all.values()].sort((a, b) => b.body.started - a.body.started);
  }

  infos(): JobInfo[] {
    return this.list().map(({ body }) => jobInfo(body));
  }

  /** By its id, or a beginning that is unique. Throws JOB_UNKNOWN. */
  show(text: string): JobInfo {
    const wanted = text.toLowerCase();
    const exact = this.#all.get(wanted);
    const starting = wanted.length >= 4 ? this.list().filter(({ body }) => body.uid.startsWith(wanted)) : [];
    const found = exact ?? (starting.length === 1 ? starting[0] : undefined);
    if (found) return jobInfo(found.body);
    const why = starting.length > 1 ? `${starting.length} jobs begin with` : 'no job is kept with the id';
    throw new AsofError('JOB_UNKNOWN', `${why} ${JSON.stringify(text)}`, 'asof job list');
  }

  /** It is known from now on, and durable with its first step that must be. */
  begin(uid: string, started: number, sets: readonly (readonly Named[])[], commands: Commands): Job {
    const job = new Job(this, {
      uid,
      started,
      ended: null,
      state: 'running',
      code: '',
      why: '',
      sets,
      commands,
      runs: [],
      writers: [],
      takes: [],
      moments: [],
    });
    this.#all.set(uid, job);
    return job;
  }

  /** Throws IO. */
  write(body: StoredJob): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    writeState(join(this.#folder, `${body.uid}.json`), KIND, body);
  }

  /** Of it nothing has to be kept. Throws IO. */
  forget({ uid }: StoredJob): void {
    this.#all.delete(uid);
    removeState(join(this.#folder, `${uid}.json`));
  }

  /** Forgets the oldest of those that have ended and owe nothing. */
  prune(): void {
    const ended = this.list().filter(({ body }) => body.ended !== null && !body.takes.some(one => one.left));
    for (const { body } of ended.slice(KEPT)) this.forget(body);
  }

  warn(error: unknown, what: string): void {
    this.#log.error({ err: error }, what);
  }
}

export class Job {
  readonly body: StoredJob;
  readonly #jobs: Jobs;

  constructor(jobs: Jobs, body: StoredJob) {
    this.#jobs = jobs;
    this.body = body;
  }

  /** Throws IO: what was to be begun must not be. */
  save(): void {
    this.#jobs.write(this.body);
  }

  /** What has happened already goes on, whether it can be written down or not. */
  keep(): void {
    try {
      this.save();
    } catch (error) {
      this.#jobs.warn(error, 'what a job does is not kept');
    }
  }

  /** A command is about to begin. Throws IO. */
  begins(stage: Stage, command: string, volumes: readonly string[], time: number): BegunCommand {
    const again = this.body.runs.find(
      one => one.stage === stage && one.volumes.join('\n') === volumes.join('\n') && one.ran === null,
    );
    const begun = again ?? { stage, command, volumes, began: time, attempts: 0, ran: null };
    begun.attempts++;
    if (!again) this.body.runs.push(begun);
    this.save();
    return begun;
  }

  /** A moment of it begins. */
  moment(volumes: readonly string[], { transitions, steps }: Timeline, refused: JobMoment['refused']): void {
    this.body.moments.push({ volumes, transitions, steps, refused });
  }

  /** It is over: what is kept of it says how. */
  finish(state: JobState, time: number, error?: unknown): void {
    this.body.state = state;
    this.body.ended = time;
    this.body.code = error instanceof AsofError ? error.code : '';
    this.body.why = error === undefined ? '' : messageOf(error);
    this.settle();
    try {
      this.#jobs.prune();
    } catch (trouble) {
      this.#jobs.warn(trouble, 'what is known of old jobs cannot be removed');
    }
  }

  /** What it had left with a provider has changed. */
  settle(): void {
    if (this.body.ended === null) return;
    if (this.body.state !== 'done' || this.body.takes.some(one => one.left)) {
      this.keep();
      return;
    }
    try {
      this.#jobs.forget(this.body);
    } catch (error) {
      this.#jobs.warn(error, 'what is known of a job cannot be removed');
    }
  }
}

function jobInfo(body: StoredJob): JobInfo {
  const { uid, started, ended, state, code, why, sets, moments, runs, writers, takes } = body;
  return {
    job: uid,
    volumes: sets.flat().map(({ name }) => name),
    state,
    started: new Date(started).toISOString(),
    ended: ended === null ? null : new Date(ended).toISOString(),
    code,
    why,
    moments: moments.map(({ refused, ...moment }) => ({
      ...moment,
      providers: [
        ...refused,
        ...moment.steps.filter(({ what }) => what === 'take').map(({ who, why }) => ({ name: who, why })),
      ],
    })),
    commands: runs.map(({ stage, command, volumes, began, attempts, ran }) => ({
      stage,
      command,
      volumes,
      began: new Date(began).toISOString(),
      attempts,
      code: ran?.code ?? null,
      signal: ran?.signal ?? null,
      why: ran?.why ?? (ended === null ? 'it runs' : 'the daemon ended while it ran'),
      output: ran?.output ?? '',
      took: ran?.took ?? 0,
    })),
    writers: writers.map(({ kind, released, why }) => ({ kind, released, why })),
    left: takes.flatMap(({ provider, members, left }) =>
      left ? members.map(({ id }) => ({ provider, id })) : [],
    ),
  };
}
