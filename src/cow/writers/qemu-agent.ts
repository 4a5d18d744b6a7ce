/**
 * The writer `qemu`: the guest agent freezes the guest's file systems, and thaws them (docs/interop/qemu-ga-ref of QEMU;
 * guest-fsfreeze-freeze, guest-fsfreeze-thaw). It is spoken to over its Unix socket, as JSON objects.
 *
 * The socket is a serial line: what an earlier client asked may still be answered. guest-sync-delimited first, whose answer
 * comes behind a byte 0xFF. A guest that thaws by itself before the moment is over thaws fewer file systems than it froze:
 * then it did not hold.
 */
import { randomInt } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';
import { AsofError } from '../../errors.js';
import type { WriterKind } from './writer.js';

export const qemu: WriterKind = {
  name: 'qemu',
  aliases: ['qemu-agent'],
  settings: { socket: 'the agent’s Unix socket, as QEMU’s -chardev socket made it' },

  make(settings) {
    const path = settings['socket'] ?? '';
    if (!path.startsWith('/'))
      throw new AsofError('USAGE', 'the writer qemu needs `socket`, an absolute path');
    let agent: Agent | undefined;
    let asked = false;
    let frozen = 0;
    return {
      name: `qemu ${path}`,
      grants: 'filesystem',

      async prepare(signal) {
        agent = await Agent.connect(path, signal);
        await agent.sync(signal);
        const status = await agent.ask('guest-fsfreeze-status', signal);
        if (status !== 'thawed') throw new Error('somebody else has frozen the guest');
      },

      async hold(signal) {
        if (!agent) throw new Error('it was not prepared');
        asked = true;
        frozen = Number(await agent.ask('guest-fsfreeze-freeze', signal));
        if (!(frozen > 0)) throw new Error('the guest has no file system that can be frozen');
      },

      async release(signal) {
        if (!agent) return;
        try {
          if (!asked) return;
          // The answer to the freeze may still be to come, and must not be taken for that to the thaw.
          if (frozen === 0) await agent.sync(signal);
          const thawed = Number(await agent.ask('guest-fsfreeze-thaw', signal));
          if (thawed < frozen) throw new Error('the guest thawed before the moment was over');
        } finally {
          agent.close();
        }
      },
    };
  },
};

class Agent {
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

  static connect(path: string, signal: AbortSignal): Promise<Agent> {
    return new Promise((done, failed) => {
      const socket = createConnection(path);
      const aborted = () => {
        socket.destroy();
        failed(signal.reason);
      };
      signal.addEventListener('abort', aborted);
      socket.once('error', failed);
      socket.once('connect', () => {
        signal.removeEventListener('abort', aborted);
        socket.removeListener('error', failed);
        done(new Agent(socket));
      });
    });
  }

  async sync(signal: AbortSignal): Promise<void> {
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

  async ask(command: string, signal: AbortSignal): Promise<unknown> {
    this.#send(command);
    return this.#answer(signal);
  }

  close(): void {
    this.#socket.destroy();
  }

  #send(execute: string, args?: object): void {
    this.#socket.write(`${JSON.stringify({ execute, ...(args && { arguments: args }) })}\n`);
  }

  async #answer(signal: AbortSignal): Promise<unknown> {
    await this.#until(() => this.#bytes.includes(0x0a), signal);
    const end = this.#bytes.indexOf(0x0a);
    const line = this.#bytes.toString('utf8', 0, end);
    this.#bytes = this.#bytes.subarray(end + 1);
    const answer = JSON.parse(line) as { return?: unknown; error?: { desc?: string } };
    if (answer.error) throw new Error(answer.error.desc ?? line);
    return answer.return;
  }

  #until(there: () => boolean, signal: AbortSignal): Promise<void> {
    return new Promise((done, failed) => {
      const settle = (work: () => void) => {
        this.#look = () => {};
        signal.removeEventListener('abort', aborted);
        work();
      };
      const aborted = () => settle(() => failed(signal.reason));
      this.#look = () => {
        if (there()) settle(done);
        else if (this.#ended) settle(() => failed(new Error(this.#ended)));
      };
      signal.addEventListener('abort', aborted);
      if (signal.aborted) aborted();
      else this.#look();
    });
  }
}
