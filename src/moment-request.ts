/** What is asked of a moment, from options or from the words of a command, as the request that says it. */
import type { MomentRequest } from './cow/quiesce.js';
import type { OptionValues } from './option-schema.js';

export const COMMANDS = ['beforeBackup', 'beforeSnapshot', 'afterSnapshot', 'afterBackup'] as const;

/** Seconds become milliseconds; what is not said is left out. */
export function requestOf(values: OptionValues): MomentRequest {
  const { consistency, quiet, quietDeadline, quietMissed, prepareDeadline, deadline, freeze } = values;
  const { shell, commandTimeout } = values;
  const named = COMMANDS.filter(key => values[key] !== undefined).map(key => [key, values[key]]);
  const commands = {
    ...Object.fromEntries(named),
    ...(shell === undefined ? {} : { shell }),
    ...(commandTimeout === undefined ? {} : { timeoutMs: commandTimeout * 1000 }),
  };
  return {
    ...(consistency === undefined ? {} : { consistency }),
    ...(quiet === undefined ? {} : { quietMs: quiet * 1000 }),
    ...(quietDeadline === undefined ? {} : { quietDeadlineMs: quietDeadline * 1000 }),
    ...(quietMissed === undefined ? {} : { quietMissed }),
    ...(prepareDeadline === undefined ? {} : { prepareMs: prepareDeadline * 1000 }),
    ...(deadline === undefined ? {} : { holdMs: deadline * 1000 }),
    ...(freeze === undefined ? {} : { freeze }),
    ...(Object.keys(commands).length === 0 ? {} : { commands }),
  };
}
