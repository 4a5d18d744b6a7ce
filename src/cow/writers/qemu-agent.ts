/**
 * The writer `qemu`: the guest agent freezes the guest's file systems, and thaws them (guest-fsfreeze-freeze,
 * guest-fsfreeze-thaw). A guest that thaws by itself before the moment is over thaws fewer file systems than it froze: then
 * it did not hold.
 *
 * An agent that dies leaves the guest frozen. Nobody waits for it longer than the moment may take, but the question to thaw
 * stays in the line, and is the first thing that it gets when it is back. And for the case that this process dies there is
 * one of its own that asks it (qemu-guard.ts).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { AsofError } from '../../errors.js';
import { Agent, AgentError } from './agent-line.js';
import type { WriterKind } from './writer.js';

const GUARD = fileURLToPath(new URL('qemu-guard.js', import.meta.url));

/** Sockets whose agent has not answered yet that it has thawed. */
const OWED = new Set<string>();

export const qemu: WriterKind = {
  name: 'qemu',
  aliases: ['qemu-agent'],
  settings: { socket: 'the agent’s Unix socket, as QEMU’s -chardev socket made it' },

  make(settings) {
    const path = settings['socket'] ?? '';
    if (!path.startsWith('/'))
      throw new AsofError('USAGE', 'the writer qemu needs `socket`, an absolute path');
    let agent: Agent | undefined;
    let guard: Guard | undefined;
    let frozen = 0;
    return {
      name: `qemu ${path}`,
      grants: 'filesystem',

      async prepare(signal) {
        if (OWED.has(path)) throw new Error('its agent has not yet answered the thaw of an earlier moment');
        agent = await Agent.connect(path, signal);
        await agent.sync(signal);
        const status = await agent.ask('guest-fsfreeze-status', signal);
        if (status !== 'thawed') throw new Error('somebody else has frozen the guest');
      },

      async hold(signal) {
        if (!agent) throw new Error('it was not prepared');
        guard = new Guard(path);
        await guard.started;
        // Who has been released meanwhile must not freeze any more.
        signal.throwIfAborted();
        frozen = Number(await agent.ask('guest-fsfreeze-freeze', signal));
        if (!(frozen > 0)) throw new Error('the guest has no file system that can be frozen');
      },

      async release(signal) {
        if (!agent) return;
        if (!guard) return agent.close();
        const thawed = await thaw(path, agent, guard, frozen === 0, signal);
        if (thawed < frozen) throw new Error('the guest thawed before the moment was over');
      },
    };
  },
};

/** How many file systems. Rejects at the signal, and goes on waiting for the answer: until then the line is taken. */
function thaw(
  path: string,
  agent: Agent,
  guard: Guard,
  unanswered: boolean,
  signal: AbortSignal,
): Promise<number> {
  const thawing = async () => {
    OWED.add(path);
    let answered = false;
    try {
      // The answer to the freeze may still be to come, and must not be taken for that to the thaw.
      if (unanswered) await agent.sync();
      const thawed = Number(await agent.ask('guest-fsfreeze-thaw'));
      answered = true;
      return thawed;
    } catch (error) {
      answered = error instanceof AgentError;
      throw error;
    } finally {
      OWED.delete(path);
      agent.close();
      if (answered) guard.end();
      else guard.takeOver();
    }
  };
  return new Promise((done, failed) => {
    const aborted = () => {
      agent.unref();
      failed(signal.reason);
    };
    signal.addEventListener('abort', aborted);
    thawing()
      .then(done, failed)
      .finally(() => signal.removeEventListener('abort', aborted));
    if (signal.aborted) aborted();
  });
}

/** It thaws when its input ends, which it does with this process. */
class Guard {
  readonly #child: ChildProcess;
  readonly started: Promise<unknown>;

  constructor(path: string) {
    const child = spawn(process.execPath, [GUARD, path], {
      stdio: ['pipe', 'ignore', 'ignore'],
      // Who ends all of this process's group does not end it.
      detached: true,
      cwd: '/',
    });
    child.stdin.on('error', () => {});
    child.unref();
    (child.stdin as Socket).unref();
    this.started = once(child, 'spawn');
    this.#child = child;
  }

  takeOver(): void {
    this.#child.stdin?.end();
  }

  end(): void {
    this.#child.kill('SIGKILL');
  }
}
