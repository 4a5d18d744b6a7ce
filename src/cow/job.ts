/**
 * A job: one or more moments, with the commands around them.
 *
 *   BEFORE_BACKUP, (BEFORE_SNAPSHOT, the moment, AFTER_SNAPSHOT) for each set of volumes, [the work], AFTER_BACKUP
 *
 * A job that has begun runs each of its after-commands once, AFTER_SNAPSHOT for each set: whatever failed, and whether it came
 * to their before-commands or not. So whoever lets something go on in one of them need not know how far a job came; that of a
 * set that was never reached runs when what is there of the job has been taken back.
 *
 * Nothing can be read before all moments of the job are there: `publish` shows them, `discard` takes back what is there of a
 * job that has failed.
 */
import { randomUUID } from 'node:crypto';
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Clock } from './clock.js';
import {
  type CommandCall,
  type CommandRun,
  type Commands,
  commandAt,
  type Named,
  runCommand,
  type Stage,
} from './commands.js';
import type { BegunCommand } from './jobs.js';
import { messageOf } from './timeline.js';

/** Milliseconds that an after-command may still take when the daemon is to end. */
const STOPPING_MS = 10_000;

/** Who keeps what a job does. */
export interface Journal {
  /** A command is about to begin. Throws IO where that cannot be kept: then it must not. */
  begins(stage: Stage, command: string, volumes: readonly string[], time: number): BegunCommand;
  keep(): void;
}

export interface JobPlan<V extends Named, T> {
  readonly clock: Clock;
  readonly log: Logger;
  /** Its id; a new one where absent. */
  readonly uid?: string | undefined;
  readonly commands: Commands;
  /** Volumes that are one moment stand together. */
  readonly sets: readonly (readonly V[])[];
  readonly take: (set: readonly V[], uid: string) => Promise<T>;
  readonly publish: (taken: readonly T[], runs: readonly CommandRun[]) => Promise<void>;
  readonly discard: (taken: readonly T[]) => Promise<void>;
  /** What is made of the moments. */
  readonly work?: (taken: readonly T[]) => Promise<void>;
  readonly journal?: Journal | undefined;
  /** Its reason ends what runs; after-commands have a little time left. */
  readonly stopping?: AbortSignal | undefined;
}

export interface Job<T> {
  readonly uid: string;
  readonly taken: readonly T[];
  readonly commands: readonly CommandRun[];
  /** After-commands that failed. */
  readonly marks: readonly string[];
}

/** Throws COMMAND_FAILED where a before-command did, and what taking throws: then there is nothing of it. */
export async function runJob<V extends Named, T>(plan: JobPlan<V, T>): Promise<Job<T>> {
  const { clock, sets, stopping } = plan;
  const uid = plan.uid ?? randomUUID();
  const commands: CommandRun[] = [];
  const marks: string[] = [];
  const taken: T[] = [];
  const all = sets.flat();
  let failed = '';
  const fail = (error: unknown): never => {
    failed = messageOf(error);
    throw error;
  };
  const run = async (stage: Stage, volumes: readonly V[]) => {
    const call = { stage, uid, volumes, clock, failed };
    const ran = await runStage(plan, call);
    if (!ran) return;
    commands.push(ran);
    if (!ran.why) return;
    const text = failureOf(ran);
    if (isAfter(stage)) {
      marks.push(text);
      return;
    }
    stopping?.throwIfAborted();
    throw new AsofError('COMMAND_FAILED', `no snapshot was taken: ${text}${lastLine(ran.output)}`);
  };
  try {
    const due = new Set(sets);
    let published = false;
    try {
      await run('BEFORE_BACKUP', all);
      for (const set of sets) {
        try {
          await run('BEFORE_SNAPSHOT', set);
          taken.push(await plan.take(set, uid));
        } catch (error) {
          fail(error);
        } finally {
          due.delete(set);
          await run('AFTER_SNAPSHOT', set);
        }
      }
      stopping?.throwIfAborted();
      await plan.publish(taken, commands);
      published = true;
    } catch (error) {
      fail(error);
    } finally {
      if (!published && taken.length > 0) await plan.discard(taken);
      for (const set of due) await run('AFTER_SNAPSHOT', set);
    }
    await plan.work?.(taken).catch(fail);
  } finally {
    await run('AFTER_BACKUP', all);
  }
  return { uid, taken, commands, marks };
}

export function isAfter(stage: Stage): boolean {
  return stage.startsWith('AFTER');
}

/** In words. */
export function failureOf({ stage, why }: Pick<CommandRun, 'stage' | 'why'>): string {
  return `the command ${stage} failed: ${why}`;
}

/**
 * The command of a stage, if there is one: written down before it begins and when it has ended. Throws, and has not begun it,
 * where it is a before-command and `stopping` is aborted or nothing can be written down.
 */
export async function runStage(
  {
    commands,
    journal,
    stopping,
    log,
  }: Pick<JobPlan<Named, never>, 'commands' | 'journal' | 'stopping' | 'log'>,
  call: Omit<CommandCall, 'signal'>,
): Promise<CommandRun | undefined> {
  const { stage, uid, volumes, clock } = call;
  const command = commandAt(commands, stage);
  if (!isAfter(stage)) stopping?.throwIfAborted();
  if (command === '') return undefined;
  let begun: BegunCommand | undefined;
  try {
    begun = journal?.begins(
      stage,
      command,
      volumes.map(({ name }) => name),
      clock.time(),
    );
  } catch (error) {
    if (!isAfter(stage)) throw error;
    log.error({ job: uid, stage, err: error }, 'that a command begins is not kept');
  }
  const grace = isAfter(stage) ? graceOf(stopping, clock) : undefined;
  const ran = await runCommand(commands, { ...call, signal: grace ? grace.signal : stopping });
  grace?.end();
  if (begun) {
    begun.ran = ran;
    journal?.keep();
  }
  log[ran.why ? 'warn' : 'info']({ job: uid, ...ran }, `command ${stage}${ran.why && `: ${ran.why}`}`);
  return ran;
}

/** Aborted a while after `stopping` is. */
function graceOf(
  stopping: AbortSignal | undefined,
  clock: Clock,
): { readonly signal: AbortSignal; readonly end: () => void } {
  const controller = new AbortController();
  let cancel = () => {};
  const stop = () => {
    cancel = clock.after(STOPPING_MS, () => controller.abort(stopping!.reason));
  };
  if (stopping?.aborted) stop();
  else stopping?.addEventListener('abort', stop);
  return {
    signal: controller.signal,
    end() {
      cancel();
      stopping?.removeEventListener('abort', stop);
    },
  };
}

function lastLine(output: string): string {
  const last = output.trim().split('\n').at(-1) ?? '';
  return last === '' ? '' : ` (${last.slice(0, 200)})`;
}
