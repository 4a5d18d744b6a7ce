/**
 * The writer `qemu`: with a scripted agent, which freezes nothing; and with the real one of QEMU, which is kept from freezing
 * this host twice over: the calls are blocked, and it runs as nobody.
 */
import { spawn } from 'node:child_process';
import { chmodSync, existsSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import { makeWriter } from '../../src/cow/writers/table.js';
import { eventually } from '../cli/asof.js';
import { missing } from '../peers.js';
import { scratch } from './lab.js';

t.setTimeout(60_000);
const never = new AbortController().signal;

const writer = (socket: string) =>
  makeWriter({ kind: 'qemu', settings: { socket } }, { clock: SYSTEM_CLOCK, volumes: ['a'], note: () => {} });

interface Script {
  readonly left?: string;
  readonly status?: string;
  readonly frozen?: number;
  readonly thawed?: number;
  readonly silent?: string;
  /** Answers one that it was silent about: its answer, as it is then. */
  answer?: () => void;
}

/** An agent as its protocol has it: JSON lines; 0xFF before the answer to a delimited sync. */
async function agent(t: Test, script: Script) {
  const path = join(scratch(t), 'agent');
  const asked: string[] = [];
  const server = createServer(socket => {
    socket.on('error', () => {});
    if (script.left) socket.write(script.left);
    let text = '';
    socket.setEncoding('latin1').on('data', piece => {
      text += piece;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const call = JSON.parse(text.slice(0, end).replaceAll('\xff', '')) as {
          execute: string;
          arguments?: { id: number };
        };
        text = text.slice(end + 1);
        asked.push(call.execute);
        if (call.execute === script.silent) {
          script.answer = () => socket.write('{"return": 2}\n');
          continue;
        }
        const answers: Record<string, unknown> = {
          'guest-sync-delimited': call.arguments?.id,
          'guest-fsfreeze-status': script.status ?? 'thawed',
          'guest-fsfreeze-freeze': script.frozen ?? 2,
          'guest-fsfreeze-thaw': script.thawed ?? 2,
        };
        if (call.execute === 'guest-sync-delimited') socket.write(Buffer.from([0xff]));
        socket.write(`${JSON.stringify({ return: answers[call.execute] })}\n`);
      }
    });
  });
  await new Promise<void>(done => server.listen(path, done));
  t.teardown(() => void server.close());
  const alone = () => new Promise<boolean>(done => server.getConnections((_, count) => done(count === 0)));
  return { path, asked, alone };
}

t.test('freeze, and thaw', async t => {
  const { path, asked } = await agent(t, { left: '{"return": 17}\n' });
  const one = writer(path);
  t.equal(one.grants, 'filesystem');
  await one.prepare!(never);
  await one.hold(never);
  await one.release(never, true);
  t.same(asked, [
    'guest-sync-delimited',
    'guest-fsfreeze-status',
    'guest-fsfreeze-freeze',
    'guest-fsfreeze-thaw',
  ]);
});

t.test('a guest that is frozen by somebody else is left so', async t => {
  const { path, asked } = await agent(t, { status: 'frozen' });
  const one = writer(path);
  await t.rejects(one.prepare!(never), /somebody else/);
  await one.release(never, false);
  t.notOk(asked.includes('guest-fsfreeze-thaw'));
});

t.test('a guest that thawed by itself did not hold', async t => {
  const { path } = await agent(t, { thawed: 0 });
  const one = writer(path);
  await one.prepare!(never);
  await one.hold(never);
  await t.rejects(one.release(never, true), /thawed before/);
});

t.test('a freeze that is not answered is thawed all the same', async t => {
  const { path, asked } = await agent(t, { silent: 'guest-fsfreeze-freeze' });
  const one = writer(path);
  await one.prepare!(never);
  const control = new AbortController();
  const holding = one.hold(control.signal);
  await eventually(() => asked.includes('guest-fsfreeze-freeze'), 'it was asked');
  control.abort(new Error('too late'));
  await t.rejects(holding, /too late/);
  await one.release(never, false);
  t.equal(asked.at(-1), 'guest-fsfreeze-thaw');
});

// An agent that died while the guest was frozen left it frozen for good: nobody was there to ask again when it was back.
t.test('a thaw that is not answered in time is waited for, and nobody else is frozen meanwhile', async t => {
  const script: Script = { silent: 'guest-fsfreeze-thaw' };
  const { path, asked } = await agent(t, script);
  const one = writer(path);
  await one.prepare!(never);
  await one.hold(never);
  const control = new AbortController();
  const releasing = one.release(control.signal, true);
  await eventually(() => script.answer !== undefined, 'it was asked');
  control.abort(new Error('too late'));
  await t.rejects(releasing, /too late/);
  await t.rejects(writer(path).prepare!(never), /an earlier moment/);
  t.equal(asked.filter(name => name === 'guest-sync-delimited').length, 1, 'which asks for nothing');
  script.answer!();
  const again = writer(path);
  await eventually(
    () =>
      again.prepare!(never).then(
        () => true,
        () => false,
      ),
    'the line is free again',
  );
  await again.release(never, false);
});

// The line closes with the process, and the guest stayed frozen.
t.test('a process that is killed while the guest is frozen leaves one that thaws it', async t => {
  const { path, asked, alone } = await agent(t, {});
  const table = new URL('../../src/cow/writers/table.js', import.meta.url).href;
  const code = `
    const { makeWriter } = await import('${table}');
    const never = new AbortController().signal;
    const one = makeWriter({ kind: 'qemu', settings: { socket: process.argv[1] } }, {});
    await one.prepare(never);
    await one.hold(never);
    console.log('held');
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  for await (const piece of child.stdout) if (String(piece).includes('held')) break;
  t.notOk(asked.includes('guest-fsfreeze-thaw'));
  child.kill('SIGKILL');
  await eventually(() => asked.includes('guest-fsfreeze-thaw'), 'somebody thaws it');
  await eventually(alone, 'and goes');
});

t.test('no agent there', async t => {
  await t.rejects(writer(join(scratch(t), 'none')).prepare!(never), { code: 'ENOENT' });
});

t.test('the real agent', { skip: missing(['qemu-ga', 'setpriv'], ['root']) }, async t => {
  const folder = scratch(t);
  chmodSync(folder, 0o777);
  const path = join(folder, 'agent');
  const blocked =
    'guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-exec,guest-shutdown,guest-file-open';
  const child = spawn(
    'setpriv',
    [
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
      'qemu-ga',
      '-m',
      'unix-listen',
      '-p',
      path,
      '-t',
      folder,
      '-b',
      blocked,
    ],
    { stdio: 'ignore' },
  );
  t.teardown(() => child.kill('SIGKILL'));
  let info = '';
  // The socket is there a moment before anybody listens on it.
  await eventually(async () => {
    if (child.exitCode !== null) throw new Error(`the agent ended with ${child.exitCode}`);
    if (!existsSync(path)) return false;
    info = await ask(path, 'guest-info').catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNREFUSED') throw error;
      return '';
    });
    return info !== '';
  }, 'the agent answers');
  const freeze = /\{[^{}]*"name": "guest-fsfreeze-freeze"[^{}]*\}/.exec(info)?.[0] ?? '';
  if (!freeze.includes('"enabled": false')) throw new Error('this agent could freeze the host: not asked');
  const one = writer(path);
  await one.prepare!(never);
  await t.rejects(one.hold(never), /disabled|blocked|not allowed/);
  await one.release(never, false);
  const again = writer(path);
  await again.prepare!(never);
  await again.release(never, false);
});

function ask(path: string, execute: string): Promise<string> {
  return new Promise((done, failed) => {
    let text = '';
    const socket = createConnection(path, () => socket.write(`${JSON.stringify({ execute })}\n`));
    socket.setEncoding('utf8').on('data', piece => {
      text += piece;
      if (!text.includes('\n')) return;
      socket.destroy();
      done(text);
    });
    socket.on('error', failed);
  });
}
