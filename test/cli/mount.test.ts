/** Mounts as a user makes them: bin/asof in processes of its own; this process never touches a mount itself. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { ImageInfo, PointInfo } from '../../src/service.js';
import { DRIVERS, mountDriver } from '../../src/service.js';
import { ASOF, asof, asofJson, eventually, makeChain, mounted, peer, running, SIZE } from './asof.js';

interface State {
  readonly mountPoint: string;
  readonly pid: number;
  readonly points: number;
  readonly driver: string;
  readonly log: string | null;
}

// All of it, on a machine that has much else to do.
t.setTimeout(1_200_000);

const folder = t.testdir();
const { a, b } = await makeChain(folder);
const points = await asofJson<PointInfo[]>('points', b);
const digests = new Map<string, string>();
for (const { id, kind, file, name } of points) {
  const chosen = kind === 'snapshot' ? ['-l', `snapshot.name=${name}`] : [];
  await peer('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', ...chosen, file, `${folder}/truth.raw`);
  digests.set(id, sha256(readFileSync(`${folder}/truth.raw`)));
}
const images = [a, b].map(path => ({
  path,
  digest: sha256(readFileSync(path)),
  stat: statSync(path, { bigint: true }),
}));

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** In another process, and not for ever: a mount that hangs must not hang the test. */
async function digest(path: string): Promise<string> {
  return (await peer('timeout', '60', 'sha256sum', path)).slice(0, 64);
}

let count = 0;

/** A new mount point; whatever stays mounted there is detached at the end. */
function mountPoint(t: Test): string {
  const path = `${folder}/mnt${count++}`;
  mkdirSync(path);
  t.teardown(async () => {
    if (mounted(path)) await peer('umount', '-l', path);
  });
  return path;
}

async function mount(t: Test, image: string, ...options: string[]): Promise<State> {
  return asofJson<State>('mount', image, mountPoint(t), ...options);
}

/** Nothing is left: no mount, no process, no log that says nothing. */
async function left(t: Test, { mountPoint, pid, log }: State): Promise<void> {
  await eventually(() => !mounted(mountPoint), `${mountPoint} is unmounted`);
  await eventually(() => !running(pid), `the server ${pid} has gone`);
  t.notOk(log !== null && existsSync(log), 'its empty log has gone');
}

for (const name of DRIVERS) {
  const unusable = await mountDriver(name).then(
    () => '',
    (error: Error) => error.message,
  );
  t.test(`a mount by the driver ${name}`, { skip: unusable || false }, async t => {
    const state = await mount(t, b, '--driver', name);
    const { mountPoint } = state;
    t.same([state.driver, state.points], [name, 3]);
    t.equal(mounted(mountPoint)?.type, 'fuse.asof');

    const listed = (await peer('timeout', '60', 'find', mountPoint, '-printf', '%P %y %m %s\n'))
      .trim()
      .split('\n');
    const disks = ['', ...points.map(({ moment }) => `${moment}/`)];
    t.same(
      listed.filter(line => !line.includes('.json')).sort(),
      [
        ...disks.map(path => `${path}disk f 444 ${SIZE}`),
        ...disks.map(path => `${path.replace(/\/$/, '')} d 555 0`.trimStart()),
      ].sort(),
    );
    t.same(
      listed
        .filter(line => line.includes('.json'))
        .map(line => line.split(' ')[0])
        .sort(),
      disks.flatMap(path => [`${path}info.json`, `${path}defects.json`]).sort(),
    );

    t.equal(await digest(`${mountPoint}/disk`), digests.get('b.qcow2'));
    for (const { id, moment, time } of points) {
      t.equal(await digest(`${mountPoint}/${moment}/disk`), digests.get(id), id);
      const info = JSON.parse(
        await peer('timeout', '60', 'cat', `${mountPoint}/${moment}/info.json`),
      ) as PointInfo;
      const none = { partitionTable: null, partitionDefects: [], fileSystem: null, partitions: [] };
      t.same(info, { ...points.find(one => one.id === id), ...none });
      const defects: unknown = JSON.parse(
        await peer('timeout', '60', 'cat', `${mountPoint}/${moment}/defects.json`),
      );
      t.same(defects, { point: id, defects: [] });
      const [newest] = points
        .filter(one => one.time.slice(0, 19) <= time.slice(0, 19))
        .sort((x, y) => (x.time < y.time ? 1 : -1));
      t.equal(await digest(`${mountPoint}/@${time.slice(0, 19)}Z/disk`), digests.get(newest!.id), `@${time}`);
    }
    const seconds = Math.floor(Date.parse(points[0]!.time) / 1000) + 10;
    t.equal(await digest(`${mountPoint}/@${seconds}/disk`), digests.get('b.qcow2'));
    await t.rejects(
      peer('timeout', '60', 'ls', `${mountPoint}/@2001-01-01`),
      'before the first point there is none',
    );
    await t.rejects(peer('timeout', '60', 'ls', `${mountPoint}/@soon`));
    const info = JSON.parse(await peer('timeout', '60', 'cat', `${mountPoint}/info.json`)) as ImageInfo;
    t.same(info, await asofJson('info', b));
    await t.rejects(peer('timeout', '60', 'touch', `${mountPoint}/new`), /Read-only/);

    const ended = await asof('umount', mountPoint);
    t.equal(ended.status, 0, ended.stderr);
    t.notOk(mounted(mountPoint), 'unmounted when umount returns');
    await left(t, state);
    t.equal((await asof('umount', mountPoint)).status, 2, 'there is nothing to unmount now');
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    t.test(`${signal} to a server of the driver ${name}`, { skip: unusable || false }, async t => {
      const state = await mount(t, b, '--driver', name);
      process.kill(state.pid, signal);
      await left(t, state);
    });
  }

  t.test(`a mount by ${name} in use`, { skip: unusable || false }, async t => {
    const state = await mount(t, b, '--driver', name);
    const holder = await hold(t, `${state.mountPoint}/disk`);
    const busy = await asof('umount', state.mountPoint, '--json');
    t.equal(busy.status, 2);
    const { error } = JSON.parse(busy.stderr) as { error: { code: string; message: string } };
    t.equal(error.code, 'MOUNT_BUSY');
    t.match(error.message, String(holder.pid), 'who holds it');
    const lazy = await asof('umount', '--lazy', state.mountPoint);
    t.equal(lazy.status, 0, lazy.stderr);
    t.notOk(mounted(state.mountPoint));
    holder.stdin!.write('\n');
    t.equal(await line(holder), digests.get('b.qcow2'), 'who is inside reads on');
    holder.stdin!.end();
    await left(t, state);
  });
}

/** A process that has `path` open, and tells its digest when asked. */
async function hold(t: Test, path: string): Promise<ChildProcess> {
  const script = 'exec 5<"$0"; echo open; read -r line; sha256sum <&5 | cut -c1-64; read -r line';
  const holder = spawn('bash', ['-c', script, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => holder.kill('SIGKILL'));
  t.equal(await line(holder), 'open');
  return holder;
}

function line(child: ChildProcess): Promise<string> {
  return new Promise((done, failed) => {
    child.stdout!.once('data', (text: Buffer) => done(text.toString().trim()));
    child.once('exit', status => failed(new Error(`ended with ${status}`)));
  });
}

t.test('a signal to a server in use: detached now, gone when the last user is', async t => {
  const state = await mount(t, b);
  const holder = await hold(t, `${state.mountPoint}/disk`);
  process.kill(state.pid, 'SIGTERM');
  await eventually(() => !mounted(state.mountPoint), 'detached');
  t.ok(running(state.pid));
  holder.stdin!.write('\n');
  t.equal(await line(holder), digests.get('b.qcow2'));
  holder.stdin!.end();
  await eventually(() => !running(state.pid), 'the server has gone');
  t.match(readFileSync(state.log!, 'utf8'), 'in use', 'the log says so');
});

t.test('a second signal ends a server in use', async t => {
  const state = await mount(t, b);
  await hold(t, `${state.mountPoint}/disk`);
  process.kill(state.pid, 'SIGTERM');
  await eventually(() => !mounted(state.mountPoint), 'detached');
  process.kill(state.pid, 'SIGTERM');
  await eventually(() => !running(state.pid), 'the server has gone');
});

t.test('--foreground: Ctrl-C unmounts, status 0', async t => {
  const path = mountPoint(t);
  const server = spawn(ASOF, ['mount', b, path, '--foreground', '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.teardown(() => server.kill('SIGKILL'));
  const state = JSON.parse(await line(server)) as State;
  t.equal(state.pid, server.pid);
  t.equal(state.log, null);
  t.equal(await digest(`${path}/disk`), digests.get('b.qcow2'));
  const status = new Promise<number | null>(done => {
    server.on('exit', done);
  });
  server.kill('SIGINT');
  t.equal(await status, 0);
  t.notOk(mounted(path));
});

t.test('a server that was killed is replaced by the next mount', async t => {
  const state = await mount(t, b);
  process.kill(state.pid, 'SIGKILL');
  await eventually(() => !running(state.pid), 'killed');
  const next = await asofJson<State>('mount', b, state.mountPoint);
  t.equal(await digest(`${next.mountPoint}/disk`), digests.get('b.qcow2'));
  t.equal((await asof('umount', next.mountPoint)).status, 0);
  await left(t, { ...next });
});

t.test('two mounts of one image at once, and none on a mount of another', async t => {
  const one = await mount(t, b);
  const two = await mount(t, b);
  t.equal(await digest(`${one.mountPoint}/disk`), digests.get('b.qcow2'));
  t.equal(await digest(`${two.mountPoint}/disk`), digests.get('b.qcow2'));
  const again = await asof('mount', a, one.mountPoint, '--json');
  t.equal(again.status, 2);
  t.equal((JSON.parse(again.stderr) as { error: { code: string } }).error.code, 'MOUNT_POINT');
  for (const state of [one, two]) {
    t.equal((await asof('umount', state.mountPoint)).status, 0);
    await left(t, state);
  }
});

t.test('a server that dies before it is ready', async t => {
  writeFileSync(
    `${folder}/die.cjs`,
    "if (/server/.test(process.argv[1])) process.kill(process.pid, 'SIGKILL');",
  );
  const path = mountPoint(t);
  const env = { ...process.env, NODE_OPTIONS: `--require ${folder}/die.cjs` };
  for (const json of [[], ['--json']]) {
    const launcher = spawn(ASOF, ['mount', b, path, ...json], { stdio: ['ignore', 'ignore', 'pipe'], env });
    let stderr = '';
    launcher.stderr.on('data', (text: Buffer) => {
      stderr += text.toString();
    });
    t.equal(await new Promise(done => launcher.on('close', done)), 2);
    const told = json[0] ? (JSON.parse(stderr) as { error: { message: string } }).error.message : stderr;
    t.match(told, 'the server was killed by SIGKILL before the mount was ready');
  }
  t.notOk(mounted(path));
});

t.test('a bug in a server: the log has it, and the mount does not stay', async t => {
  const script = "process.on('SIGUSR2', () => { throw new Error('a bug for the test'); });";
  writeFileSync(`${folder}/bug.cjs`, script);
  const path = mountPoint(t);
  const env = { ...process.env, NODE_OPTIONS: `--require ${folder}/bug.cjs` };
  const launcher = spawn(ASOF, ['mount', b, path, '--json'], { stdio: ['ignore', 'pipe', 'inherit'], env });
  const state = JSON.parse(await line(launcher)) as State;
  t.equal(await digest(`${path}/disk`), digests.get('b.qcow2'));
  process.kill(state.pid, 'SIGUSR2');
  await eventually(() => !running(state.pid), 'the server has gone');
  await eventually(() => !mounted(path), 'and so has the mount');
  t.match(readFileSync(state.log!, 'utf8'), 'a bug for the test');
});

t.test('what cannot be a mount point', async t => {
  writeFileSync(`${folder}/plain`, '');
  for (const path of [`${folder}/plain`, `${folder}/none`]) {
    const { status, stderr } = await asof('mount', b, path, '--json');
    t.equal(status, 2);
    const { code } = (JSON.parse(stderr) as { error: { code: string } }).error;
    t.ok(['MOUNT_POINT', 'NOT_FOUND'].includes(code), code);
  }
});

t.test(
  'a launcher that is killed leaves nothing behind that is not a mount',
  { timeout: 600_000 },
  async t => {
    for (let delay = 0; delay <= 320; delay += 40) {
      const path = mountPoint(t);
      const launcher = spawn(ASOF, ['mount', b, path], { stdio: 'ignore' });
      const ended = new Promise<void>(done => {
        launcher.on('exit', () => done());
      });
      await new Promise(done => setTimeout(done, delay));
      launcher.kill('SIGKILL');
      await ended;
      // Either it was ready already, or there is neither a mount nor a server in the end.
      const settled = async () => {
        const servers = await serversOf(path);
        return servers.length === 0 ? !mounted(path) : mounted(path) !== undefined && (await works(path));
      };
      await eventually(settled, `${delay} ms: all or nothing`);
      if (!mounted(path)) continue;
      await asof('umount', path);
      await eventually(async () => (await serversOf(path)).length === 0, 'the server has gone');
    }
    t.pass('all or nothing, each time');
  },
);

async function serversOf(path: string): Promise<string[]> {
  const all = await peer('ps', '-eo', 'stat,args');
  return all
    .split('\n')
    .filter(line => line.includes('server.js') && line.endsWith(` ${path}`) && !line.startsWith('Z'));
}

async function works(path: string): Promise<boolean> {
  return digest(`${path}/disk`).then(
    found => found === digests.get('b.qcow2'),
    () => false,
  );
}

t.test('the images are as they were', async t => {
  for (const { path, digest, stat } of images) {
    t.equal(sha256(readFileSync(path)), digest, path);
    const now = statSync(path, { bigint: true });
    t.same([now.mtimeNs, now.ctimeNs, now.size], [stat.mtimeNs, stat.ctimeNs, stat.size], 'times');
  }
});
