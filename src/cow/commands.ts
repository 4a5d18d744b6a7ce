/**
 * Commands around a moment: four of a job, before and after the backup, before and after the snapshot (R-Drive Image's AUX
 * applications, whose variables they get).
 *
 *   R_CALLBACK_UID     the same in all calls of a job, and new for each
 *   R_CALLBACK_STAGE   BEFORE_BACKUP, BEFORE_SNAPSHOT, AFTER_SNAPSHOT or AFTER_BACKUP
 *   R_VOLUME_NAMES     names, with commas between
 *   R_VOLUME_GUIDS     UUIDs in braces, with commas between, in the same order
 *   ASOF_JOB           the same as one JSON object: {"uid","stage","volumes":[{"name","guid"}]}
 *   ASOF_JOB_FAILED    why the job has failed; empty while it has not
 *
 * 0 is success. What else a before-command ends with, or how, stops the job; an after-command's failure marks it.
 */
import { AsofError } from '../errors.js';
import type { Clock } from './clock.js';
import { type Ended, runProgram, wordsOf } from './program.js';
import { messageOf } from './timeline.js';

export const STAGES = ['BEFORE_BACKUP', 'BEFORE_SNAPSHOT', 'AFTER_SNAPSHOT', 'AFTER_BACKUP'] as const;
export type Stage = (typeof STAGES)[number];

/** Milliseconds that one of them may take. */
export const COMMAND_MS = 300_000;

/** As a user gives them: blank ones run nothing. */
export interface Commands {
  readonly beforeBackup?: string;
  readonly beforeSnapshot?: string;
  readonly afterSnapshot?: string;
  readonly afterBackup?: string;
  /** Each is given to `/bin/sh -c`; else it is a program and its words. */
  readonly shell?: boolean;
  readonly timeoutMs?: number;
}

export interface Named {
  readonly name: string;
  readonly id: string;
}

export interface CommandRun extends Ended {
  readonly stage: Stage;
  readonly command: string;
  readonly volumes: readonly string[];
}

const KEYS = {
  BEFORE_BACKUP: 'beforeBackup',
  BEFORE_SNAPSHOT: 'beforeSnapshot',
  AFTER_SNAPSHOT: 'afterSnapshot',
  AFTER_BACKUP: 'afterBackup',
} as const;

/** Throws USAGE for what cannot be run, before anything is. */
export function checkCommands(commands: Commands): void {
  for (const key of Object.values(KEYS)) if (!commands.shell) wordsOf(commands[key] ?? '');
  const { timeoutMs = COMMAND_MS } = commands;
  if (timeoutMs > 0 && timeoutMs <= 86_400_000) return;
  throw new AsofError(
    'USAGE',
    `a time-out of ${timeoutMs / 1000} seconds is not allowed`,
    'more than 0, up to 86400',
  );
}

/** What is run at a stage; '' where that is nothing. */
export function commandAt(commands: Commands, stage: Stage): string {
  const command = commands[KEYS[stage]] ?? '';
  return command.trim() === '' ? '' : command;
}

export interface CommandCall {
  readonly stage: Stage;
  readonly uid: string;
  readonly volumes: readonly Named[];
  readonly clock: Clock;
  /** Why the job has failed; '' while it has not. */
  readonly failed: string;
  /** Ends it before its time. */
  readonly signal?: AbortSignal | undefined;
}

/** The command of a stage, which is not blank, with what it says. Never rejects. */
export async function runCommand(commands: Commands, call: CommandCall): Promise<CommandRun> {
  const { stage, uid, volumes, clock, failed, signal } = call;
  const command = commandAt(commands, stage);
  const names = volumes.map(({ name }) => name);
  const env = {
    R_CALLBACK_UID: uid,
    R_CALLBACK_STAGE: stage,
    R_VOLUME_NAMES: names.join(','),
    R_VOLUME_GUIDS: volumes.map(({ id }) => `{${id}}`).join(','),
    ASOF_JOB: JSON.stringify({ uid, stage, volumes: volumes.map(({ name, id }) => ({ name, guid: id })) }),
    ASOF_JOB_FAILED: failed,
  };
  let argv: string[];
  try {
    argv = commands.shell ? ['/bin/sh', '-c', command] : wordsOf(command);
  } catch (error) {
    const why = messageOf(error);
    return { stage, command, volumes: names, code: null, signal: null, why, output: '', took: 0 };
  }
  const ended = await runProgram(argv, { clock, timeoutMs: commands.timeoutMs ?? COMMAND_MS, env, signal });
  return { stage, command, volumes: names, ...ended };
}
