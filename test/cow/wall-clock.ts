/** A clock that goes where it is told, and on the wall one that can be set, of a machine that can sleep. */
import type { Clock } from '../../src/cow/clock.js';

export class WallClock implements Clock {
  #now = 0;
  #wall: number;
  readonly #timers = new Set<{ readonly at: number; readonly call: () => void }>();

  constructor(start: string) {
    this.#wall = Date.parse(start);
  }

  now(): number {
    return this.#now;
  }

  time(): number {
    return this.#wall + this.#now;
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + ms, call };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Somebody sets it; or the machine slept, for timers stand still then. */
  set(by: number): void {
    this.#wall += by;
  }

  /** Goes on until the wall shows that time: every timer in its turn, with what follows from it. */
  async to(time: string): Promise<void> {
    const end = this.#now + Math.max(0, Date.parse(time) - this.time());
    for (;;) {
      await new Promise(done => setImmediate(done));
      const [first] = [...this.#timers].sort((a, b) => a.at - b.at);
      if (!first || first.at > end) break;
      this.#timers.delete(first);
      this.#now = Math.max(this.#now, first.at);
      first.call();
    }
    this.#now = end;
  }
}
