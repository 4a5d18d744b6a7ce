/**
 * A client program of a database that is kept open: statements go in, and a line that was asked for tells that one is done.
 * Its connection is the lock: when the program ends, however that is, the server takes back what it held.
 */
import { type Running, start } from '../runner.js';

export interface SessionOptions {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** A statement after which the client writes `mark` on a line of its own. */
  readonly sentinel: (mark: string) => string;
}

export class Session {
  readonly #child: Running;
  readonly #sentinel: SessionOptions['sentinel'];
  #text = '';
  #errors = '';
  #count = 0;
  #ended = '';
  #look = () => {};

  constructor({ argv, env, sentinel }: SessionOptions) {
    const [program = ''] = argv;
    this.#sentinel = sentinel;
    this.#child = start(argv, { env, stdin: true });
    this.#child.stdout?.setEncoding('utf8').on('data', piece => {
      this.#text += piece;
      this.#look();
    });
    this.#child.stderr?.setEncoding('utf8').on('data', piece => {
      this.#errors = (this.#errors + piece).slice(-4096);
    });
    this.#child.ended.then(({ code, signal, trouble }) => {
      this.#ended ||= trouble || this.#errors.trim() || `${program} ended by ${signal ?? code}`;
      this.#look();
    });
  }

  /** Why it is not there any more; '' while it is. */
  get ended(): string {
    return this.#ended;
  }

  /** What the statement answers. Rejects with what the client says of an error, which ends it; at the signal it is killed. */
  ask(statement: string, signal: AbortSignal): Promise<string> {
    const mark = `asof-done-${++this.#count}`;
    return new Promise((done, failed) => {
      const settle = (work: () => void) => {
        this.#look = () => {};
        signal.removeEventListener('abort', aborted);
        work();
      };
      const aborted = () =>
        settle(() => {
          this.kill();
          failed(signal.reason);
        });
      this.#look = () => {
        const at = this.#text.indexOf(`${mark}\n`);
        if (at >= 0) {
          const answer = this.#text.slice(0, at);
          this.#text = this.#text.slice(at + mark.length + 1);
          settle(() => done(answer));
        } else if (this.#ended) settle(() => failed(new Error(this.#ended)));
      };
      signal.addEventListener('abort', aborted);
      if (signal.aborted) aborted();
      else {
        this.#child.stdin?.write(`${statement}\n${this.#sentinel(mark)}\n`);
        this.#look();
      }
    });
  }

  /** Its input ends, and so does it. */
  close(): void {
    this.#child.stdin?.end();
  }

  kill(): void {
    this.#child.kill();
  }
}
