/**
 * The server's end of the pipe to its launcher: the protocol is in launch.ts.
 */
import { Socket } from 'node:net';
import type { Answer } from './launch.js';

export class Launcher {
  readonly #pipe: Socket;
  /** Resolves to true when the launcher has taken the answer, false when it has gone away before. */
  readonly taken: Promise<boolean>;

  constructor(fd: number) {
    this.#pipe = new Socket({ fd, readable: true, writable: true });
    this.taken = new Promise(done => {
      this.#pipe.setEncoding('utf8');
      this.#pipe.on('data', text => done(String(text).includes('ok')));
      this.#pipe.on('error', () => done(false));
      this.#pipe.on('close', () => done(false));
    });
  }

  /** Resolves when the answer has been handed over, whether or not anybody takes it. */
  async answer(answer: Answer): Promise<void> {
    await new Promise<void>(done => this.#pipe.write(`${JSON.stringify(answer)}\n`, () => done()));
  }

  /** After `taken`: nothing of the pipe is left open. */
  close(): void {
    this.#pipe.destroy();
  }
}
