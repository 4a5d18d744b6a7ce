/**
 * What is said when a command ends without success, and the exit status.
 *
 * An AsofError is a message and a hint; with `--json`, one JSON object. Both go to standard error. Anything else is
 * a bug: its stack is shown, and the status is 70 (EX_SOFTWARE of sysexits.h).
 */
import { inspect } from 'node:util';
import { CommanderError } from 'commander';
import { AsofError, EXIT } from '../errors.js';
import { printable } from './columns.js';
import { ReaderGone } from './output.js';

export const EXIT_BUG = 70;

export interface Failure {
  /** For standard error; may be empty. */
  readonly text: string;
  readonly exit: number;
}

/** `json`: whether the user asked for JSON. `command`: the command's name, '' where there is none. */
export function failureOf(error: unknown, json: boolean, command: string): Failure {
  if (error instanceof ReaderGone) return { text: '', exit: EXIT.sound };
  if (error instanceof CommanderError) return usage(error, json, command);
  if (error instanceof AsofError) return { text: told(error, json), exit: error.exitCode };
  return { text: bug(error, json), exit: EXIT_BUG };
}

function usage(error: CommanderError, json: boolean, command: string): Failure {
  // Help and version have been written already; help that nobody asked for is status 1 in commander, and here.
  if (error.code === 'commander.version' || error.code.startsWith('commander.help')) {
    return { text: '', exit: error.exitCode };
  }
  const message = error.message.replace(/^error: /, '').replace('\n', ' ');
  // What is no command has no help.
  const whose = error.code === 'commander.unknownCommand' ? command.split(' ')[0] : command;
  const known = new AsofError(
    'USAGE',
    message,
    `asof ${whose ? `${whose} ` : ''}--help shows what is allowed`,
  );
  return { text: told(known, json), exit: known.exitCode };
}

function told(error: AsofError, json: boolean): string {
  const { code, message, hint } = error;
  if (json) return `${JSON.stringify({ error: { code, message, hint } })}\n`;
  return `asof: ${printable(message)}\n${hint ? `hint: ${printable(hint)}\n` : ''}`;
}

function bug(error: unknown, json: boolean): string {
  const stack = error instanceof Error ? (error.stack ?? error.message) : inspect(error);
  if (json) return `${JSON.stringify({ error: { code: 'BUG', message: stack, hint: '' } })}\n`;
  return `asof: this is a bug in asof; please report it with the lines below\n${stack}\n`;
}
