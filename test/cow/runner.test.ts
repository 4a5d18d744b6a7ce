/**
 * Nothing that the daemon has begun goes on without it: a program, and a client that holds a lock, end when it is killed, with
 * all that they have started, whether they listen or not; a program that its daemon lets run to its end leaves alone what it
 * has started.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import { runProgram } from '../../src/cow/program.js';
import { Session } from '../../src/cow/writers/session.js';
import { eventually, running } from '../cli/asof.js';
import { scratch } from './lab.js';

t.setTimeout(60_000);

const SRC = new URL('../../src/', import.meta.url).pathname;

/** Another process that does `what`, until two processes have written their ids; then it is killed. */
async function killed(t: Test, what: (line: string) => string, trap: string): Promise<void> {
  const file = join(scratch(t), 'pids');
  const line = `${trap} sleep 1000 & echo $$ $! > ${file}.new; mv ${file}.new ${file}; wait; sleep 1000`;
  const code = `
    const { runProgram } = await import('${SRC}cow/program.js');
    const { SYSTEM_CLOCK: clock } = await import('${SRC}cow/clock.js');
    const { Session } = await import('${SRC}cow/writers/session.js');
    ${what(JSON.stringify(line))}
    setInterval(() => {}, 1000);`;
  const daemon = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: 'inherit' });
  t.teardown(() => daemon.kill('SIGKILL'));
  await eventually(() => existsSync(file), 'it runs');
  const pids = readFileSync(file, 'utf8').trim().split(' ').map(Number);
  t.ok(pids.every(running));
  daemon.kill('SIGKILL');
  await eventually(() => !pids.some(running), 'both have ended');
}

const program = (line: string) => `runProgram(['/bin/sh', '-c', ${line}], { clock, timeoutMs: 1e6 });`;
const session = (line: string) =>
  `new Session({ argv: ['/bin/sh', '-c', ${line}], env: {}, sentinel: mark => mark });`;

t.test('a program', t => killed(t, program, ''));
t.test('a program that does not listen', t => killed(t, program, `trap '' TERM;`));
t.test('a client', t => killed(t, session, ''));
t.test('a client that does not listen', t => killed(t, session, `trap '' TERM;`));

t.test('what a program leaves when it ends by itself', async t => {
  const ended = await runProgram(['/bin/sh', '-c', 'sleep 1000 > /dev/null 2>&1 & echo $!; exit 7'], {
    clock: SYSTEM_CLOCK,
    timeoutMs: 60_000,
  });
  t.match(ended, { code: 7, why: 'it ended with 7' });
  const pid = Number(ended.output);
  t.teardown(() => process.kill(pid, 'SIGKILL'));
  t.ok(running(pid), 'goes on');
});

t.test('signals, and words', async t => {
  const run = (...argv: string[]) => runProgram(argv, { clock: SYSTEM_CLOCK, timeoutMs: 60_000 });
  t.match(await run('/bin/sh', '-c', 'kill -9 $$'), {
    code: null,
    signal: 'SIGKILL',
    why: 'SIGKILL ended it',
  });
  t.match(await run('printf', '%s|', 'a b', '', '-c'), { code: 0, output: 'a b||-c|' });
  // Its signals are those of any program.
  t.match(await run('/bin/sh', '-c', 'kill -PIPE $$'), { signal: 'SIGPIPE' });
  t.match(await run('/bin/sh', '-c', 'kill -TERM $$'), { signal: 'SIGTERM' });
  t.match(await run('/bin/sh', '-c', 'test ! -e /proc/$$/fd/3'), { code: 0 }, 'and it has no way to us');
});

t.test('a client at whose signal nobody waits any more is gone at once', async t => {
  const one = new Session({ argv: ['/bin/sh', '-c', `trap '' TERM; sleep 1000`], env: {}, sentinel: m => m });
  const control = new AbortController();
  const asking = one.ask('anything', control.signal);
  control.abort(new Error('too late'));
  await t.rejects(asking, /too late/);
  await eventually(() => one.ended !== '', 'it has ended');
});
