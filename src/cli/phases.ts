/** Progress of work in phases: a line that rewrites itself on a terminal; lines of JSON for programs. */
import type { Progress } from './progress.js';

/** Milliseconds between two lines of JSON. */
const PACE = 500;

export interface Phase {
  readonly phase: string;
  /** Bytes. */
  readonly done: number;
}

export class Phases<State extends Phase> {
  readonly #json: boolean;
  readonly #bar: (state: State) => Progress;
  readonly #began = Date.now();
  #shown: { readonly phase: string; readonly progress: Progress } | undefined;
  #last = 0;

  /** `bar` begins the line of a phase, on a terminal. */
  constructor(json: boolean, bar: (state: State) => Progress) {
    this.#json = json;
    this.#bar = bar;
  }

  at(state: State): void {
    if (this.#json) {
      const now = Date.now();
      if (now - this.#last < PACE) return;
      this.#last = now;
      const line = { progress: { ...state, milliseconds: now - this.#began } };
      process.stderr.write(`${JSON.stringify(line)}\n`);
      return;
    }
    if (this.#shown?.phase !== state.phase) {
      this.end();
      this.#shown = { phase: state.phase, progress: this.#bar(state) };
    }
    this.#shown?.progress.at(state.done);
  }

  end(): void {
    this.#shown?.progress.end();
    this.#shown = undefined;
  }
}
