/** Volumes, defaults and groups that the configuration declares; consumers, over the daemon's commands. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';

t.setTimeout(120_000);

interface Daemon {
  readonly status: number | null;
  readonly stderr: string;
  readonly stop: () => Promise<void>;
}

/** Starts it; resolves when it is ready, or has ended. */
async function serve(t: Test, config: string): Promise<Daemon> {
  const child: ChildProcess = spawn(ASOF, ['serve', '--config', config, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = new Promise(done => child.on('close', done));
  let stdout = '';
  let stderr = '';
  child.stdout!.on('data', piece => {
    stdout += piece;
  });
  child.stderr!.on('data', piece => {
    stderr += piece;
  });
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  t.teardown(() => {
    child.kill('SIGKILL');
  });
  await Promise.race([ended, eventually(() => stdout.endsWith('}\n'), 'the daemon is ready')]);
  return { status: child.exitCode, stderr, stop };
}

t.test(
  'declared volumes are added once, with the defaults; a conflict is an error that names its line',
  async t => {
    const folder = scratch(t);
    const config = join(folder, 'asof.yaml');
    const state = join(folder, 'state');
    mkdirSync(join(folder, 'stores'));
    for (const name of ['a', 'b', 'c']) emptyFile(join(folder, name), MiB);
    const text = (more: string) => `
state: state
logLevel: error
defaults:
  chunk: 4K
  storeLimit: 3M
  cowTimeout: 1.5
  stores: stores
volumes:
  first:
    origin: a
${more}`;
    writeFileSync(
      config,
      text('  second: {origin: b, store: memory, chunk: 64K}\ngroups: {both: [first, second]}\n'),
    );
    const once = await serve(t, config);
    t.equal(once.status, null, once.stderr);
    const volumes = await asofJson<{ id: string; store: string }[]>('volume', 'list', '--state', state);
    t.match(volumes, [
      {
        name: 'first',
        origin: join(folder, 'a'),
        chunkSize: 4096,
        storeLimit: 3 * MiB,
        cowTimeoutSeconds: 1.5,
      },
      { name: 'second', store: null, chunkSize: 65536 },
    ]);
    t.ok(volumes[0]!.store.startsWith(join(folder, 'stores/first-')), volumes[0]!.store);
    // By hand: the same defaults.
    t.match(await asofJson('volume', 'add', 'third', join(folder, 'c'), '--chunk', '8K', '--state', state), {
      chunkSize: 8192,
      storeLimit: 3 * MiB,
    });

    const made = await asofJson<{ group: string }[]>(
      'snapshot',
      'create',
      '@both',
      'first',
      '--state',
      state,
    );
    t.match(made, [{ volume: 'first' }, { volume: 'second' }]);
    t.equal(made[0]!.group, (made[1] as { group: string }).group);
    const nobody = await asof('snapshot', 'create', '@nobody', '--state', state);
    t.equal(nobody.status, 2);
    t.match(nobody.stderr, /there is no group "@nobody"\nhint: there are @both/);
    await once.stop();

    const twice = await serve(t, config);
    t.equal(twice.status, null, twice.stderr);
    t.equal((await asofJson<object[]>('volume', 'list', '--state', state)).length, 3, 'the same as before');
    await twice.stop();

    for (const [more, message] of [
      ['    durability: process\n', /line 10: the volume first is there .*durability is power, not process/],
      ['  second: {origin: c}\n', /line 12: the volume second is there .*origin is .*b, not .*c/],
      ['  fourth: {origin: nowhere}\n', /line 12: .*nowhere does not exist/],
      ['  fourth: {origin: b}\n', /line 12: the volume second has the origin .* already/],
    ] as const) {
      writeFileSync(config, text(more));
      const refused = await serve(t, config);
      t.not(refused.status, null, more);
      t.match(refused.stderr, message);
    }
  },
);

t.test('a consumer, by commands', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const config = join(folder, 'asof.json');
  emptyFile(join(folder, 'a'), MiB);
  writeFileSync(config, JSON.stringify({ state, logLevel: 'error', volumes: { a: { origin: 'a' } } }));
  const daemon = await serve(t, config);
  t.equal(daemon.status, null, daemon.stderr);
  const said = async (...argv: string[]) => {
    const { status, stdout, stderr } = await asof(...argv, '--state', state);
    return { status, stdout: stdout.toString(), stderr };
  };
  const [snapshot] = await asofJson<{ id: string }[]>('snapshot', 'create', 'a', '--state', state);
  t.match(await said('changes', 'a', '--consumer', 'nightly'), {
    status: 2,
    stderr: /has no consumer "nightly"\nhint: asof volume mark a CONSUMER ID/,
  });
  t.match(await said('volume', 'mark', 'a', 'nightly', snapshot!.id.slice(0, 6)), {
    status: 0,
    stdout: `nightly has ${snapshot!.id} of `,
  });
  await said('snapshot', 'delete', snapshot!.id);
  t.match((await said('volume', 'show', 'a')).stdout, `consumer     nightly has ${snapshot!.id} of `);
  t.match(await said('changes', 'a', '--consumer', 'nightly'), {
    status: 0,
    stdout: '0 B changed; tracked, exact: every write since has been tracked',
  });
  t.match(await asofJson('changes', 'a', '--consumer', 'nightly', '--state', state), {
    volume: 'a',
    since: snapshot!.id,
    extents: [],
    method: 'tracked',
    exact: true,
    bytes: 0,
  });
  t.match(await said('changes', 'a'), { status: 1, stderr: /since when\?/ });
  t.match(await said('changes', 'a', '--since', 'added', '--consumer', 'x'), {
    status: 1,
    stderr: /not both/,
  });
  t.match(await said('volume', 'unmark', 'a', 'nightly'), { status: 0, stdout: 'nightly is forgotten\n' });
  t.match(await said('volume', 'unmark', 'a', 'nightly'), { status: 2 });
  await daemon.stop();
});
