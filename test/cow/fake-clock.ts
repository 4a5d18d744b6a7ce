/** A clock that goes where it is told. */
import type { Clock } from '../../src/cow/clock.js';

interface Timer {
  readonly at: number;
  readonly call: () => void;
}

export class FakeClock implements Clock {
  #now = 0;
  #timers: Timer[] = [];

  now(): number {
    return this.#now;
  }

  time(): number {
    return 1_800_000_000_000 + this.#now;
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + ms, call };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter(one => one !== timer);
    };
  }

  /** When the next timer is due; undefined where there is none. */
  get next(): number | undefined {
    const due = this.#timers.map(({ at }) => at);
    return due.length === 0 ? undefined : Math.min(...due);
  }

  /** Goes to the next timer, and lets it and what follows from it happen. */
  async step(): Promise<void> {
    await settle();
    const { next } = this;
    if (next === undefined) return;
    this.#now = Math.max(this.#now, next);
    const timer = this.#timers.find(({ at }) => at <= this.#now)!;
    this.#timers = this.#timers.filter(one => one !== timer);
    timer.call();
    await settle();
  }

  /** Steps for as long as `promise` is open: what it resolves to, or rejects with. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let open = true;
    const done = () => {
      open = false;
    };
    promise.then(done, done);
    await settle();
    while (open) {
      if (this.next === undefined) await new Promise(done => setImmediate(done));
      else await this.step();
    }
    return promise;
  }
}

/** All that follows without waiting. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise(done => setImmediate(done));
}
