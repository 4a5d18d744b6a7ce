/**
 * Progress of long work: one line on standard error that rewrites itself, on a terminal only.
 */
import { humanSize } from './size.js';

/** Milliseconds between two lines. */
const PACE = 200;

export class Progress {
  readonly #what: string;
  readonly #total: number;
  readonly #stream: NodeJS.WriteStream | undefined;
  #last = 0;
  #shown = false;

  /** `total` bytes of work; 0 where it is unknown. */
  constructor(what: string, total: number, stream: NodeJS.WriteStream = process.stderr) {
    this.#what = what;
    this.#total = total;
    this.#stream = stream.isTTY ? stream : undefined;
  }

  /** `done` bytes of the total are done. */
  at(done: number): void {
    if (!this.#stream) return;
    const now = Date.now();
    if (now - this.#last < PACE) return;
    this.#last = now;
    this.#shown = true;
    const share =
      this.#total > 0 ? ` of ${humanSize(this.#total)}, ${Math.floor((done / this.#total) * 100)} %` : '';
    this.#stream.write(`\r\x1b[K${this.#what}: ${humanSize(done)}${share}`);
  }

  /** Takes the line away. */
  end(): void {
    if (this.#shown) this.#stream?.write('\r\x1b[K');
    this.#shown = false;
  }
}
