/** What happened around a moment, and when: states and steps. Kept with the snapshot, and logged as it happens. */
import type { Logger } from '../log.js';
import { type Clock, TimedOut } from './clock.js';

export interface Transition {
  readonly state: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Milliseconds since the request. */
  readonly after: number;
}

export interface Step {
  /** What was asked: `prepare`, `hold`, `take`, `release` … */
  readonly what: string;
  /** Of whom. */
  readonly who: string;
  /** Milliseconds since the request, and what it took. */
  readonly after: number;
  readonly took: number;
  readonly outcome: 'done' | 'failed' | 'timed out';
  readonly why: string;
}

export class Timeline {
  readonly transitions: Transition[] = [];
  readonly steps: Step[] = [];
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #began: number;

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#log = log;
    this.#began = clock.now();
  }

  enter(state: string): void {
    const transition = { state, at: this.#clock.time(), after: this.#after() };
    this.transitions.push(transition);
    this.#log.info(transition, `moment: ${state}`);
  }

  /** Runs `work` and notes how that went; what it rejects with is passed on. */
  async step<T>(what: string, who: string, work: () => Promise<T>): Promise<T> {
    const after = this.#after();
    const note = (outcome: Step['outcome'], why: string) => {
      const step = { what, who, after, took: this.#after() - after, outcome, why };
      this.steps.push(step);
      if (outcome === 'done') this.#log.info(step, `moment: ${what} ${who}`);
      else this.#log.warn(step, `moment: ${what} ${who}: ${why}`);
    };
    try {
      const answer = await work();
      note('done', '');
      return answer;
    } catch (error) {
      note(error instanceof TimedOut ? 'timed out' : 'failed', messageOf(error));
      throw error;
    }
  }

  #after(): number {
    return Math.round((this.#clock.now() - this.#began) * 1000) / 1000;
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
