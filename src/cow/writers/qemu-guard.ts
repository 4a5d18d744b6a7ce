/**
 * A process of its own that thaws a QEMU guest when the one that had it frozen dies: when its input ends. argv[2] is the socket
 * of the guest's agent. Who has thawed it ends this process.
 *
 * It goes on until the guest has answered, or is no more: an agent that is not there is waited for.
 */
import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { errnoOf } from '../../errors.js';
import { Agent, AgentError } from './agent-line.js';

const [, , path = ''] = process.argv;

async function thaw(): Promise<void> {
  const agent = await Agent.connect(path);
  try {
    await agent.sync();
    await agent.ask('guest-fsfreeze-thaw');
  } finally {
    agent.close();
  }
}

process.stdin.resume();
await once(process.stdin, 'end');
for (let over = false; !over; ) {
  try {
    await thaw();
    over = true;
  } catch (error) {
    // It will not say anything else; or QEMU has gone, and the guest with it.
    over = error instanceof AgentError || ['ENOENT', 'ECONNREFUSED'].includes(errnoOf(error));
    if (!over) await setTimeout(1000);
  }
}
