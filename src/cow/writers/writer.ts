/**
 * A writer: whoever can be told to hold still, and writes to the volumes. A kind of writer makes holders of what the user
 * says of one; what it can vouch for when it held is its grant.
 */
import { AsofError } from '../../errors.js';
import type { Clock } from '../clock.js';
import type { Consistency } from '../consistency.js';
import type { Holder } from '../sequence.js';

export interface WriterContext {
  readonly clock: Clock;
  /** Names of the volumes of the moment. */
  readonly volumes: readonly string[];
  /** Keeps a text that is needed for a restore. */
  readonly note: (text: string) => void;
  /** Keeps what `recover` will have to know, durably: throws IO where that is not so. */
  readonly remember?: ((memo: string) => void) | undefined;
}

export interface WriterHolder extends Holder {
  readonly grants: Consistency;
}

export interface WriterKind {
  readonly name: string;
  /** Other names of the same. */
  readonly aliases?: readonly string[];
  /** What each setting means, for messages and the documentation. */
  readonly settings: Readonly<Record<string, string>>;
  /**
   * Where what it holds outlives the daemon: lets it go on, after a daemon that ended before it had. `memos` are what was
   * remembered. It must do no harm where nothing was held. Absent where the hold ends with the daemon.
   */
  recover?(
    settings: Readonly<Record<string, string>>,
    context: WriterContext,
    memos: readonly string[],
    signal: AbortSignal,
  ): Promise<void>;
  /** Throws USAGE. */
  make(settings: Readonly<Record<string, string>>, context: WriterContext): WriterHolder;
}

/** Milliseconds of a setting in seconds. Throws USAGE. */
export function secondsOf(settings: Readonly<Record<string, string>>, name: string, unless: number): number {
  const text = settings[name];
  if (text === undefined) return unless * 1000;
  const seconds = Number(text);
  if (text.trim() !== '' && seconds > 0 && seconds <= 86400) return seconds * 1000;
  throw new AsofError(
    'USAGE',
    `${name} cannot be ${JSON.stringify(text)}`,
    'seconds, more than 0, up to 86400',
  );
}
