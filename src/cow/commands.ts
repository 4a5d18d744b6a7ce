/**
 * Commands around a moment: four of a job, before and after the backup, before and after the snapshot (R-Drive Image's AUX
 * applications, whose variables they get).
 *
 *   R_CALLBACK_UID     the same in all calls of a job, and new for each
 *   R_CALLBACK_STAGE   BEFORE_BACKUP, BEFORE_SNAPSHOT, AFTER_SNAPSHOT or AFTER_BACKUP
 *   R_VOLUME_NAMES     names, with commas between
 *   R_VOLUME_GUIDS     UUIDs in braces, with commas between, in the same order
 *   ASOF_JOB           the same as one JSON object: {"uid","stage","volumes":[{"name","guid"}]}
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

/** The command of a stage, with what it says; undefined where it is blank. Never rejects. */
export async function runCommand(
  commands: Commands,
  stage: Stage,
  uid: string,
  volumes: readonly Named[],
  clock: Clock,
): Promise<CommandRun | undefined> {
  const command = commands[KEYS[stage]] ?? '';
  if (command.trim() === '') return undefined;
  const names = volumes.map(({ name }) => name);
  const env = {
    R_CALLBACK_UID: uid,
    R_CALLBACK_STAGE: stage,
    R_VOLUME_NAMES: names.join(','),
    R_VOLUME_GUIDS: volumes.map(({ id }) => `{${id}}`).join(','),
    ASOF_JOB: JSON.stringify({ uid, stage, volumes: volumes.map(({ name, id }) => ({ name, guid: id })) }),
  };
  let argv: string[];
  try {
    argv = commands.shell ? ['/bin/sh', '-c', command] : wordsOf(command);
  } catch (error) {
    const why = messageOf(error);
    return { stage, command, volumes: names, code: null, signal: null, why, output: '', took: 0 };
  }
  const ended = await runProgram(argv, { clock, timeoutMs: commands.timeoutMs ?? COMMAND_MS, env });
  return { stage, command, volumes: names, ...ended };
}
