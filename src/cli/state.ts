/**
 * Where the daemon's state is: --state, else ASOF_STATE, else /var/lib/asof for root, $XDG_STATE_HOME/asof or
 * ~/.local/state/asof for others.
 */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { type JsonFlag, withJson } from './options.js';

export interface StateFlags extends JsonFlag {
  readonly state?: string;
}

/** `--state` and `--json`. */
export function withState(command: Command): Command {
  return withJson(command).option(
    '--state <DIR>',
    'the state directory of the daemon (ASOF_STATE unless given)',
  );
}

/** Of root: systemd/asof.service uses it. */
export const ROOT_STATE = '/var/lib/asof';

export function stateFolder(flag: string | undefined): string {
  const named = flag ?? process.env['ASOF_STATE'];
  if (named) return resolve(named);
  if (process.geteuid?.() === 0) return ROOT_STATE;
  const base = process.env['XDG_STATE_HOME'];
  return base ? join(base, 'asof') : join(homedir(), '.local/state/asof');
}
