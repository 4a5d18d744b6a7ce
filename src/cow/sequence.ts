/**
 * The road to a moment and back, as the Volume Shadow Copy framework walks it: a requester asks, writers and file systems
 * hold still, a provider takes the snapshot of the whole group.
 *
 *   requested → [waiting →] preparing → ready → holding → held → taking → taken
 *             → releasing → released → ending → over → told
 *   any of them → failing → failed
 *
 *   waiting    no write for a while (quiet-window.ts)     preparing  writers are told, and may take their time
 *   ready      every writer holds                         holding    file systems are flushed and held, one after the other
 *   taking     providers are tried in their order         releasing  file systems go on; the last held is the first released
 *   ending     writers are told that it is over           told       the requester knows: only now may anybody read it
 *
 * Whoever was told to hold, or to prepare for it, is released exactly once, whatever became of that: also when it failed,
 * and when its answer never came. What comes too late is taken back: a provider's late snapshot is undone, whenever its
 * answer comes. From the first
 * hold to the last release `holdMs` pass at most: a part of it is kept back for the releases, and none of them may use up
 * the others' share.
 */
import { AsofError } from '../errors.js';
import { type Clock, within } from './clock.js';
import type { Timeline } from './timeline.js';
import { messageOf } from './timeline.js';

export type State =
  | 'requested'
  | 'waiting'
  | 'preparing'
  | 'ready'
  | 'holding'
  | 'held'
  | 'taking'
  | 'taken'
  | 'releasing'
  | 'released'
  | 'ending'
  | 'over'
  | 'told'
  | 'failing'
  | 'failed';

const NEXT: Readonly<Record<State, readonly State[]>> = {
  requested: ['waiting', 'preparing', 'failing'],
  waiting: ['preparing', 'failing'],
  preparing: ['ready', 'failing'],
  ready: ['holding', 'failing'],
  holding: ['held', 'failing'],
  held: ['taking', 'failing'],
  taking: ['taken', 'failing'],
  taken: ['releasing', 'failing'],
  releasing: ['released', 'failing'],
  released: ['ending', 'failing'],
  ending: ['over', 'failing'],
  over: ['told', 'failing'],
  told: [],
  failing: ['failed'],
  failed: [],
};

/** Of `holdMs`, what is kept for the releases: a third, and no more than this. */
const RELEASE_MS = 10_000;

/** Milliseconds in which a provider's failed attempt must be undone before the next is tried. */
const UNDO_MS = 10_000;

/** Who can be told to hold still: a writer or a file system. */
export interface Holder {
  readonly name: string;
  /** Told that a moment is coming; may still write. */
  prepare?(signal: AbortSignal): Promise<void>;
  /** From its answer to its release it holds still. */
  hold(signal: AbortSignal): Promise<void>;
  /**
   * Told that it is over, and whether there is a moment. Rejects where it did not hold to the end. At the signal nobody
   * waits any longer: what it can do by force it does then.
   */
  release(signal: AbortSignal, taken: boolean): Promise<void>;
}

/** A provider, as far as the sequence knows one. */
export interface Taker<T> {
  readonly name: string;
  /** The snapshot of the whole group, or none. */
  take(timeoutMs: number): Promise<T>;
  /** Whatever is there of it goes. */
  undo(): Promise<void>;
}

export interface Loss {
  readonly holder: Holder;
  readonly why: string;
}

export interface Plan<T> {
  readonly clock: Clock;
  readonly timeline: Timeline;
  /** In the order in which they are told; released in the other. */
  readonly writers: readonly Holder[];
  readonly fileSystems: readonly Holder[];
  /** In the order in which they are tried. */
  readonly takers: readonly Taker<T>[];
  /** Providers of the order that cannot take it at all, for the list of causes. */
  readonly refused?: readonly { readonly name: string; readonly why: string }[] | undefined;
  /** Milliseconds: for all writers to be prepared; from the first hold to the last release. */
  readonly prepareMs: number;
  readonly holdMs: number;
  /** Waits for quiet; rejects where that is the end. */
  readonly wait?: (() => Promise<void>) | undefined;
  /** Whether the rest can still be worth what was asked for, when these do not hold. */
  readonly worth: (lost: readonly Loss[]) => boolean;
  /** The last look at what was taken, when all are released: undefined, or why it is not good enough. */
  readonly judge: (taken: T, lost: readonly Loss[]) => string | undefined;
  /** Nobody is asked anything any more; those who hold are released. */
  readonly stopping?: AbortSignal | undefined;
  /** From the first hold to the end nobody else changes the volumes. */
  readonly exclusively: <R>(work: () => Promise<R>) => Promise<R>;
}

export interface Reached<T> {
  readonly taken: T;
  readonly taker: Taker<T>;
  readonly lost: readonly Loss[];
  /** Providers that were tried, with why the snapshot is not theirs; '' for the one whose it is. */
  readonly tried: readonly { readonly name: string; readonly why: string }[];
}

/** Throws CONSISTENCY_UNMET, SNAPSHOT_FAILED, and what waiting throws: nobody holds any more, and nothing was taken. */
export async function runSequence<T>(plan: Plan<T>): Promise<Reached<T>> {
  const run = new Run(plan);
  try {
    await run.prepare();
    return await plan.exclusively(() => run.hold());
  } catch (error) {
    return run.fail(error);
  }
}

class Run<T> {
  readonly #plan: Plan<T>;
  readonly #told: Holder[] = [];
  readonly #lost: Loss[] = [];
  readonly #tried: { name: string; why: string }[] = [];
  #state: State = 'requested';
  #deadline: number | undefined;
  /** Has failed, and may have left something. */
  #owed: Taker<T> | undefined;
  #taken: { readonly taken: T; readonly taker: Taker<T> } | undefined;

  constructor(plan: Plan<T>) {
    this.#plan = plan;
    plan.timeline.enter('requested');
  }

  #enter(state: State): void {
    if (!NEXT[this.#state].includes(state)) throw new Error(`no way leads from ${this.#state} to ${state}`);
    this.#state = state;
    this.#plan.timeline.enter(state);
  }

  async prepare(): Promise<void> {
    const { wait, clock, writers, prepareMs } = this.#plan;
    if (wait) {
      this.#enter('waiting');
      await this.#plan.timeline.step('wait', 'for quiet', wait);
    }
    this.#enter('preparing');
    const deadline = clock.now() + prepareMs;
    for (const writer of writers) {
      this.#told.push(writer);
      await this.#ask('prepare', writer, deadline, async signal => writer.prepare?.(signal));
    }
  }

  async hold(): Promise<Reached<T>> {
    const { clock, writers, fileSystems, holdMs } = this.#plan;
    this.#deadline = clock.now() + holdMs;
    const deadline = this.#deadline - Math.min(RELEASE_MS, holdMs / 3);
    for (const writer of writers) {
      if (this.#lost.some(({ holder }) => holder === writer)) continue;
      await this.#ask('hold', writer, deadline, signal => writer.hold(signal));
    }
    this.#enter('ready');
    this.#enter('holding');
    for (const fileSystem of fileSystems) {
      this.#told.push(fileSystem);
      await this.#ask('hold', fileSystem, deadline, signal => fileSystem.hold(signal));
    }
    this.#enter('held');
    this.#enter('taking');
    const { taken, taker } = await this.#take(deadline);
    this.#taken = { taken, taker };
    this.#enter('taken');
    this.#enter('releasing');
    await this.#release(fileSystems);
    this.#enter('released');
    this.#enter('ending');
    await this.#release(writers);
    this.#enter('over');
    const why = this.#plan.judge(taken, this.#lost);
    if (why !== undefined) throw unmet(why);
    this.#enter('told');
    return { taken, taker, lost: this.#lost, tried: this.#tried };
  }

  /** Releases, takes back, and throws. */
  async fail(cause: unknown): Promise<never> {
    this.#enter('failing');
    await this.#release(this.#told);
    const left = this.#taken?.taker ?? this.#owed;
    if (left) await this.#undo(left, UNDO_MS);
    this.#enter('failed');
    if (cause instanceof AsofError) throw cause;
    throw new AsofError('SNAPSHOT_FAILED', `no snapshot was taken: ${messageOf(cause)}`, '', { cause });
  }

  async #ask(
    what: string,
    holder: Holder,
    deadline: number,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const { clock, timeline, worth, stopping } = this.#plan;
    try {
      await timeline.step(what, holder.name, () => within(clock, deadline - clock.now(), work, stopping));
    } catch (error) {
      stopping?.throwIfAborted();
      this.#lost.push({ holder, why: `${holder.name}: ${messageOf(error)}` });
      if (!worth(this.#lost)) throw unmet(this.#lost.map(({ why }) => why).join('; '));
    }
  }

  /** Those of `holders` that were told, the last first. Never rejects. */
  async #release(holders: readonly Holder[]): Promise<void> {
    const { clock, timeline, holdMs } = this.#plan;
    const deadline = this.#deadline ?? clock.now() + Math.min(RELEASE_MS, holdMs / 3);
    for (;;) {
      const index = this.#told.findLastIndex(one => holders.includes(one));
      const holder = this.#told[index];
      if (!holder) return;
      const share = (deadline - clock.now()) / this.#told.length;
      this.#told.splice(index, 1);
      try {
        await timeline.step('release', holder.name, () =>
          within(clock, share, signal => holder.release(signal, this.#taken !== undefined)),
        );
      } catch (error) {
        if (this.#lost.some(one => one.holder === holder)) continue;
        this.#lost.push({ holder, why: `${holder.name}: ${messageOf(error)}` });
      }
    }
  }

  async #take(deadline: number): Promise<{ readonly taken: T; readonly taker: Taker<T> }> {
    const { clock, timeline, takers, stopping } = this.#plan;
    for (const [index, taker] of takers.entries()) {
      const share = Math.max(0, (deadline - clock.now()) / (takers.length - index));
      let taking: Promise<T> | undefined;
      let answered = false;
      try {
        const taken = await timeline.step('take', taker.name, () =>
          within(
            clock,
            share,
            () => {
              taking = taker.take(share);
              taking.then(
                () => {
                  answered = true;
                },
                () => {
                  answered = true;
                },
              );
              return taking;
            },
            stopping,
          ),
        );
        this.#tried.push({ name: taker.name, why: '' });
        return { taken, taker };
      } catch (error) {
        this.#tried.push({ name: taker.name, why: messageOf(error) });
        // An answer that still comes, comes when nobody holds any more: it is no moment.
        if (taking && !answered) taking.catch(() => undefined).then(() => this.#undo(taker, UNDO_MS));
        // The next one must not meet what is left of it. Behind the last one nobody has to wait for that.
        else if (index + 1 < takers.length && !stopping?.aborted)
          await this.#undo(taker, Math.min(UNDO_MS, deadline - clock.now()));
        else this.#owed = taker;
        stopping?.throwIfAborted();
      }
    }
    const causes = [...(this.#plan.refused ?? []), ...this.#tried]
      .map(({ name, why }) => `${name}: ${why}`)
      .join('; ');
    throw new AsofError(
      'SNAPSHOT_FAILED',
      `no provider took the snapshot; ${causes}`,
      'asof volume show NAME tells of the store; --provider NAME names another provider',
    );
  }

  async #undo(taker: Taker<T>, ms: number): Promise<void> {
    const { clock, timeline } = this.#plan;
    await timeline
      .step('undo', taker.name, () => within(clock, ms, () => taker.undo()))
      .catch(() => undefined);
  }
}

function unmet(why: string): AsofError {
  return new AsofError(
    'CONSISTENCY_UNMET',
    `the snapshot would not be what was asked for: ${why}`,
    '--consistency crash takes it all the same, and records what it is',
  );
}
