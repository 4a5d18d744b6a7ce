/**
 * What a moment is worth, and what is recorded of how it came about. docs/consistency.md says it to administrators.
 *
 * A class is what was shown to hold, never what was hoped for: whatever could not be seen to its end counts as not held.
 */
import type { CommandRun } from './commands.js';
import type { Step, Transition } from './timeline.js';

/** From the least to the most. */
export const CONSISTENCIES = ['crash', 'quiet', 'filesystem', 'application'] as const;
export type Consistency = (typeof CONSISTENCIES)[number];

/** What is recorded: `none` where nothing was preserved, so that there is nothing to be consistent. */
export type Worth = Consistency | 'none';

export function atLeast(one: Worth, least: Consistency): boolean {
  return one !== 'none' && CONSISTENCIES.indexOf(one) >= CONSISTENCIES.indexOf(least);
}

export interface FileSystemRecord {
  readonly mountPoint: string;
  readonly type: string;
  readonly device: string;
  /** From before the moment until after it. */
  readonly held: boolean;
  readonly why: string;
}

/** Kept with a snapshot, in a file of its own. */
export interface MomentRecord {
  /** Of the job that it was part of: R_CALLBACK_UID. */
  readonly job: string;
  /** The least that was acceptable. */
  readonly asked: Consistency;
  readonly consistency: Worth;
  /** Why it is not more. */
  readonly why: string;
  readonly transitions: readonly Transition[];
  readonly steps: readonly Step[];
  readonly fileSystems: readonly FileSystemRecord[];
  readonly providers: readonly { readonly name: string; readonly why: string }[];
  readonly commands: readonly CommandRun[];
  readonly warnings: readonly string[];
  /** What writers want kept for a restore, PostgreSQL's backup label. */
  readonly notes: readonly { readonly who: string; readonly text: string }[];
  /** Commands after the moment that failed: the snapshot is there, and the job is not as it should be. */
  readonly marks: readonly string[];
}

/** What is known of a volume when the moment is over. */
export interface Evidence {
  /** Writers named, and those of them that did not hold. */
  readonly writers: readonly { readonly grants: Consistency; readonly lost: string }[];
  /** File systems on the volume, and why one was not held; '' where it was. */
  readonly fileSystems: readonly { readonly mountPoint: string; readonly lost: string }[];
  /** No write from the beginning of the window to the switch; undefined where no window was asked for. */
  readonly quiet: boolean | undefined;
}

/** The class that the evidence shows, and why not the next one. */
export function classOf({ writers, fileSystems, quiet }: Evidence): {
  readonly consistency: Consistency;
  readonly why: string;
} {
  const loose = fileSystems.find(one => one.lost !== '');
  const granted = writers.reduce<Consistency>(
    (least, one) => (atLeast(one.grants, least) ? least : one.grants),
    writers.length > 0 ? 'application' : 'crash',
  );
  const lost = writers.find(one => one.lost !== '');
  const why: string[] = [];
  let reached: Consistency = 'crash';
  if (loose) why.push(`the file system on ${loose.mountPoint} was not held: ${loose.lost}`);
  else if (fileSystems.length > 0) reached = 'filesystem';
  if (lost) why.push(lost.lost);
  // One writer that did not hold is an application whose data is in no known state.
  else if (!loose && atLeast(granted, reached)) reached = granted;
  if (quiet === true && !atLeast(reached, 'quiet')) reached = 'quiet';
  if (quiet === false && !atLeast(reached, 'filesystem')) why.push('a write came before the switch');
  if (reached === 'crash' && why.length === 0) why.push('nobody was there to be told to hold still');
  if (reached === 'filesystem' && writers.length === 0) why.push('no writer was named');
  return { consistency: reached, why: why.join('; ') };
}
