/**
 * The line to a QEMU guest's agent (docs/interop/qemu-ga-ref of QEMU): JSON objects over a Unix socket, one question at a
 * time.
 *
 * It is a serial line: what an earlier client asked may still be answered, and an agent that is not there answers when it is
 * back. guest-sync-delimited first, whose answer comes behind a byte 0xFF.
 */
import { randomInt } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';

/** What the agent answered is an error. */
export class AgentError extends Error {
  override readonly name = 'AgentError';
}

export class Agent {
  readonly #socket: Socket;
  #bytes = Buffer.alloc(0);
  #ended = '';
  #look = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    const end = (why: string) => {
      this.#ended ||= why;
      this.#look();
    };
    socket.on('data', piece => {
      this.#bytes = Buffer.concat([this.#bytes, piece]);
      this.#look();
    });
    socket.on('error', error => end(error.message));
    socket.on('close', () => end('the agent’s socket was closed'));
  }

  static connect(path: string, signal?: AbortSignal): Promise<Agent> {
    return new Promise((done, failed) => {
      const socket = createConnection(path);
      const aborted = () => {
        socket.destroy();
        failed(signal?.reason);
      };
      signal?.addEventListener('abort', aborted);
      socket.once('error', failed);
      socket.once('connect', () => {
        signal?.removeEventListener('abort', aborted);
        socket.removeListener('error', failed);
        done(new Agent(socket));
      });
    });
  }

  async sync(signal?: AbortSignal): Promise<void> {
    const id = randomInt(2 ** 31);
    // The first byte ends whatever half a command stands in its parser.
    this.#socket.write(Buffer.from([0xff]));
    this.#send('guest-sync-delimited', { id });
    for (;;) {
      await this.#until(() => this.#bytes.includes(0xff), signal);
      this.#bytes = this.#bytes.subarray(this.#bytes.indexOf(0xff) + 1);
      if ((await this.#answer(signal)) === id) return;
    }
  }

  async ask(command: string, signal?: AbortSignal): Promise<unknown> {
    this.#send(command);
    return this.#answer(signal);
  }

  close(): void {
    this.#socket.destroy();
  }

  /** It keeps no process. */
  unref(): void {
    this.#socket.unref();
  }

  #send(execute: string, args?: object): void {
    this.#socket.write(`${JSON.stringify({ execute, ...(args && { arguments: args }) })}\n`);
  }

  async #answer(signal: AbortSignal | undefined): Promise<unknown> {
    await this.#until(() => this.#bytes.includes(0x0a), signal);
    const end = this.#bytes.indexOf(0x0a);
    const line = this.#bytes.toString('utf8', 0, end);
    this.#bytes = this.#bytes.subarray(end + 1);
    const answer = JSON.parse(line) as { return?: unknown; error?: { desc?: string } };
    if (answer.error) throw new AgentError(answer.error.desc ?? line);
    return answer.return;
  }

  #until(there: () => boolean, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((done, failed) => {
      const settle = (work: () => void) => {
        this.#look = () => {};
        signal?.removeEventListener('abort', aborted);
        work();
      };
      const aborted = () => settle(() => failed(signal?.reason));
      this.#look = () => {
        if (there()) settle(done);
        else if (this.#ended) settle(() => failed(new Error(this.#ended)));
      };
      signal?.addEventListener('abort', aborted);
      if (signal?.aborted) aborted();
      else this.#look();
    });
  }
}
