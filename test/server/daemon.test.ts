/** The life of the daemon, as processes see it: who may ask it, one at a time, what a kill leaves behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ROUTES } from '../../src/server/routes.js';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';

t.setTimeout(120_000);

interface Failure {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string };
}

/** Starts it, and waits until it is ready. */
async function serve(t: Test, state: string, ...more: string[]): Promise<ChildProcess> {
  const child = spawn(ASOF, ['serve', '--state', state, '--json', '--log-level', 'error', ...more], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => end(child, 'SIGKILL'));
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('}\n') || child.exitCode !== null, 'the daemon is ready');
  t.match(JSON.parse(text), { pid: child.pid, state, socket: join(state, 'asof.sock') });
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = new Promise(done => child.on('close', done));
    child.kill(signal);
    await ended;
  }
  return child.exitCode;
}

async function refused(...argv: string[]): Promise<Failure['error'] & { readonly status: number }> {
  const { status, stderr, stdout } = await asof(...argv, '--json');
  if (status === 0) throw new Error(`asof ${argv.join(' ')} succeeded: ${stdout}`);
  return { ...(JSON.parse(stderr) as Failure).error, status };
}

function ask(
  socket: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; body: unknown }> {
  return new Promise((done, failed) => {
    const sent = request(
      { socketPath: socket, method, path, headers: { 'content-type': 'application/json' } },
      response => {
        let text = '';
        response.setEncoding('utf8').on('data', piece => {
          text += piece;
        });
        response.on('end', () => done({ status: response.statusCode ?? 0, body: JSON.parse(text) }));
      },
    );
    sent.on('error', failed);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

t.test('without a daemon every command says how to start one', async t => {
  const state = join(scratch(t), 'state');
  for (const argv of [
    ['volume', 'list'],
    ['volume', 'add', 'a', '/dev/null'],
    ['snapshot', 'list'],
    ['changes', 'a', '--since', 'added'],
    ['activity', 'a'],
  ]) {
    const { code, hint, status } = await refused(...argv, '--state', state);
    t.match(
      { code, hint, status },
      { code: 'DAEMON_MISSING', hint: `asof serve --state ${state}`, status: 2 },
      argv.join(' '),
    );
  }
  t.notOk(existsSync(state), 'asking makes nothing');
});

t.test('the socket and all state are the owner’s alone', async t => {
  const state = join(scratch(t), 'state');
  const daemon = await serve(t, state);
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8);
  t.equal(mode(state), '700');
  t.equal(mode(join(state, 'asof.sock')), '600');
  t.equal(await end(daemon, 'SIGTERM'), 0);
  t.notOk(existsSync(join(state, 'asof.sock')), 'a clean stop takes the socket away');
});

t.test('a state directory that others may enter is refused', async t => {
  const state = join(scratch(t), 'state');
  mkdirSync(state, { mode: 0o755 });
  writeFileSync(join(state, 'something'), '');
  const { code, hint } = await refused('serve', '--state', state);
  t.match({ code, hint }, { code: 'STATE_UNUSABLE', hint: `chmod 700 ${state}` });
});

t.test('one daemon a state directory; a killed one leaves no trace that matters', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const origin = emptyFile(join(folder, 'origin'), MiB);
  const first = await serve(t, state);
  const second = await refused('serve', '--state', state);
  t.equal(second.code, 'DAEMON_RUNNING');
  t.match(second.message, String(first.pid));
  await asofJson('volume', 'add', 'disk', origin, '--state', state);
  const made = await asofJson<{ id: string }[]>('snapshot', 'create', 'disk', '--state', state);
  await end(first, 'SIGKILL');
  t.ok(existsSync(join(state, 'asof.sock')), 'the socket is stale');
  t.equal((await refused('volume', 'list', '--state', state)).code, 'DAEMON_MISSING');

  const third = await serve(t, state);
  t.match(await asofJson('volume', 'list', '--state', state), [
    { name: 'disk', state: 'open', snapshots: 1 },
  ]);
  t.match(await asofJson('snapshot', 'list', '--state', state), [{ id: made[0]!.id, state: 'live' }]);
  t.match(await asofJson('changes', 'disk', '--since', made[0]!.id, '--state', state), {
    bytes: 0,
    extents: [],
  });
  t.equal(await end(third, 'SIGINT'), 0);
});

t.test('a write to the origin long after the daemon was killed is a foreign one', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const origin = emptyFile(join(folder, 'origin'), MiB);
  const first = await serve(t, state);
  await asofJson('volume', 'add', 'disk', origin, '--state', state);
  await asofJson('snapshot', 'create', 'disk', '--state', state);
  await end(first, 'SIGKILL');
  const hourAgo = new Date(Date.now() - 3_600_000);
  utimesSync(join(state, 'alive'), hourAgo, hourAgo);
  writeFileSync(origin, 'somebody else', { flag: 'r+' });
  await serve(t, state);
  t.match(await asofJson('volume', 'show', 'disk', '--state', state), {
    state: 'open',
    tracking: { state: 'unknown', why: /last seen alive/ },
  });
  t.match(await asofJson('snapshot', 'list', '--state', state), [
    { state: 'unknown', why: /last seen alive/ },
  ]);
  t.match(await asofJson('changes', 'disk', '--since', 'added', '--state', state), {
    method: 'none',
    exact: false,
    extents: [{ start: 0, length: MiB }],
  });
});

t.test('the commands, for people and as JSON', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  await serve(t, state);
  for (const name of ['a', 'b']) {
    const origin = emptyFile(join(folder, name), MiB);
    const { status, stdout, stderr } = await asof(
      'volume',
      'add',
      name,
      origin,
      '--chunk',
      '4K',
      '--cow-timeout',
      '2.5',
      '--state',
      state,
    );
    t.equal(status, 0, stderr);
    t.match(stdout.toString(), `${name} is protected`);
  }
  const said = async (...argv: string[]) => {
    const { status, stdout, stderr } = await asof(...argv, '--state', state);
    t.equal(status, 0, `${argv.join(' ')} ${stderr}`);
    return stdout.toString();
  };
  t.match(await said('volume', 'list'), /^NAME .*\na +open +1 MiB.*\nb +open/);
  t.match(await said('volume', 'show', 'a'), /timeout +2\.5 s/);
  t.match(await asofJson('volume', 'show', 'a', '--state', state), {
    chunkSize: 4096,
    cowTimeoutSeconds: 2.5,
    durability: 'power',
  });
  t.match(await said('snapshot', 'create', 'a', 'b'), /\n\S+ +a .* cow +crash .* live\n\S+ +b /);
  const [one, other] = await asofJson<{ id: string; group: string; time: number }[]>(
    'snapshot',
    'list',
    '--state',
    state,
  );
  t.equal(one!.group, other!.group);
  t.equal(one!.time, other!.time);
  t.match(await said('snapshot', 'show', one!.id.slice(0, 8)), /consistency +crash/);
  t.match(await said('changes', 'a', '--since', one!.group), /0 B changed; tracked, exact/);
  t.match(await said('activity', 'a'), /first writes +0/);
  t.match(await asofJson('activity', 'a', '--state', state), { volume: 'a', counters: { writes: 0 } });
  t.equal((await refused('volume', 'remove', 'a', '--state', state)).code, 'VOLUME_IN_USE');
  t.equal(await said('snapshot', 'delete', one!.group), '2 snapshots deleted\n');
  t.match(await said('volume', 'remove', 'a'), /a is protected no longer/);
  t.equal((await refused('volume', 'show', 'a', '--state', state)).code, 'VOLUME_UNKNOWN');
  t.equal((await refused('snapshot', 'create', 'b', '--provider', 'nobody', '--state', state)).code, 'USAGE');
});

t.test('a follower sees a line a second until it goes', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  await serve(t, state);
  await asofJson('volume', 'add', 'a', emptyFile(join(folder, 'a'), MiB), '--state', state);
  const follower = spawn(ASOF, ['activity', 'a', '--follow', '--json', '--state', state], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => end(follower, 'SIGKILL'));
  let text = '';
  follower.stdout.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.split('\n').length > 2, 'two answers');
  for (const line of text.split('\n').slice(0, 2))
    t.match(JSON.parse(line), { volume: 'a', forecast: { fullInSeconds: null } });
});

t.test('the API checks what it is asked, and answers in one form', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  await serve(t, state);
  const socket = join(state, 'asof.sock');
  t.match(await ask(socket, 'GET', '/v1/daemon'), { status: 200, body: { state, mount: null, volumes: 0 } });
  t.match(await ask(socket, 'GET', '/v1/nothing'), { status: 404, body: { error: { code: 'USAGE' } } });
  t.match(await ask(socket, 'GET', '/v1/volumes/x'), {
    status: 404,
    body: { error: { code: 'VOLUME_UNKNOWN' } },
  });
  const origin = emptyFile(join(folder, 'origin'), MiB);
  for (const body of [
    {},
    { name: 'a' },
    { name: 'a', origin: 'relative' },
    { name: 'a', origin, chunkSize: -1 },
    { name: 'a', origin, durability: 'none' },
    { name: 'a', origin, surprise: true },
    { name: '../a', origin },
  ]) {
    t.match(
      await ask(socket, 'POST', '/v1/volumes', body),
      { status: 400, body: { error: { code: 'USAGE' } } },
      JSON.stringify(body),
    );
  }
  t.same((await ask(socket, 'GET', '/v1/volumes')).body, []);
  t.match(await ask(socket, 'POST', '/v1/volumes', { name: 'a', origin }), {
    status: 200,
    body: { name: 'a' },
  });
  t.match(await ask(socket, 'POST', '/v1/volumes', { name: 'a', origin }), {
    status: 409,
    body: { error: { code: 'VOLUME_EXISTS' } },
  });
  const [snapshot] = (await ask(socket, 'POST', '/v1/snapshots', { volumes: ['a'] })).body as {
    id: string;
  }[];
  const extents = [{ start: 0, length: 65536 }];
  t.match(await ask(socket, 'POST', `/v1/snapshots/${snapshot!.id}/release`, { extents }), {
    status: 200,
    body: { id: snapshot!.id },
  });
  t.match(
    await ask(socket, 'POST', `/v1/snapshots/${snapshot!.id}/release`, {
      extents: [{ start: MiB, length: 1 }],
    }),
    { status: 400 },
  );
});

t.test('settings of a file; what is said on the command line counts more', async t => {
  const folder = scratch(t);
  const config = join(folder, 'asof.json');
  writeFileSync(config, JSON.stringify({ state: join(folder, 'other'), logLevel: 'warn' }));
  const daemon = await serve(t, join(folder, 'state'), '--config', config);
  t.notOk(existsSync(join(folder, 'other')));
  await end(daemon, 'SIGTERM');
  for (const text of ['no', '[]', '{"surprise":1}', '{"mount":7}']) {
    writeFileSync(config, text);
    t.equal((await refused('serve', '--config', config)).code, 'USAGE', text);
  }
  rmSync(config);
  t.equal((await refused('serve', '--config', config)).code, 'NOT_FOUND');
});

t.test('docs/api.md has every route in its order', async t => {
  const text = readFileSync(new URL('../../../docs/api.md', import.meta.url), 'utf8');
  const told = [...text.matchAll(/^\| `([A-Z]+) (\S+)` \| (.*) \|$/gm)].map(([, method, path, summary]) => ({
    method,
    path,
    summary,
  }));
  t.same(
    told,
    ROUTES.map(({ method, path, summary }) => ({ method, path, summary })),
  );
});
