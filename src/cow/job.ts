/**
 * A job: one or more moments, with the commands around them.
 *
 *   BEFORE_BACKUP, (BEFORE_SNAPSHOT, the moment, AFTER_SNAPSHOT) for each set of volumes, [the work], AFTER_BACKUP
 *
 * An after-command runs where its before-command was due, whether that ran, failed or was blank, and whatever failed in
 * between. Nothing can be read before all moments of the job are there: `publish` shows them, `discard` takes back what is
 * there of a job that has failed.
 */
import { randomUUID } from 'node:crypto';
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Clock } from './clock.js';
import { type CommandRun, type Commands, type Named, runCommand, type Stage } from './commands.js';

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
  const uid = plan.uid ?? randomUUID();
  const commands: CommandRun[] = [];
  const marks: string[] = [];
  const taken: T[] = [];
  const all = plan.sets.flat();
  const run = async (stage: Stage, volumes: readonly V[]) => {
    const ran = await runCommand(plan.commands, stage, uid, volumes, plan.clock);
    if (!ran) return;
    commands.push(ran);
    plan.log[ran.why ? 'warn' : 'info']({ job: uid, ...ran }, `command ${stage}${ran.why && `: ${ran.why}`}`);
    if (!ran.why) return;
    const text = `the command ${stage} failed: ${ran.why}`;
    if (stage.startsWith('AFTER')) marks.push(text);
    else throw new AsofError('COMMAND_FAILED', `no snapshot was taken: ${text}${lastLine(ran.output)}`);
  };
  try {
    let published = false;
    try {
      await run('BEFORE_BACKUP', all);
      for (const set of plan.sets) {
        try {
          await run('BEFORE_SNAPSHOT', set);
          taken.push(await plan.take(set, uid));
        } finally {
          await run('AFTER_SNAPSHOT', set);
        }
      }
      await plan.publish(taken, commands);
      published = true;
    } finally {
      if (!published && taken.length > 0) await plan.discard(taken);
    }
    await plan.work?.(taken);
  } finally {
    await run('AFTER_BACKUP', all);
  }
  return { uid, taken, commands, marks };
}

function lastLine(output: string): string {
  const last = output.trim().split('\n').at(-1) ?? '';
  return last === '' ? '' : ` (${last.slice(0, 200)})`;
}
