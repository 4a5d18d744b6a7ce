/**
 * A tree that changes while it is mounted: what programs see is right at once, whatever the kernel remembered, and open
 * files stay what they were.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t from 'tap';
import type { Mounted } from '../../src/mount/driver.js';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import type { Directory, Entry, ShownDisk, Tree } from '../../src/mount/tree.js';
import { cannotMount, run, text, Workshop } from './fixture.js';
import { makeVolume, WHEN } from './volume.js';

const why = cannotMount(nativeFuse.unavailable());
if (why) {
  t.plan(0, why);
  process.exit(0);
}

const workshop = new Workshop();
const mounts: Mounted[] = [];
const children = new Set<ChildProcess>();
t.teardown(async () => {
  for (const child of children) child.kill('SIGKILL');
  for (const mounted of mounts) {
    await mounted.unmount({ lazy: true });
    await mounted.ended;
  }
  workshop.close();
});

const disk = (name: string, shown: ShownDisk): Entry => ({ kind: 'disk', name, modified: WHEN, disk: shown });
const folder = (name: string, entries: readonly Entry[], find?: Directory['find']): Directory => ({
  kind: 'directory',
  name,
  modified: WHEN,
  entries,
  find,
});

async function mount(tree: Tree, writable = false) {
  const dir = workshop.directory();
  const mounted = await nativeFuse.mount(tree, {
    mountPoint: dir,
    source: 'update',
    allowOther: false,
    writable,
  });
  mounts.push(mounted);
  return { dir, mounted };
}

const list = async (path: string) =>
  text(await run('ls', path))
    .split('\n')
    .filter(Boolean);
const same = async (path: string, oracle: string) => (await run('cmp', path, oracle)).status === 0;
const missing = async (path: string) => /No such file or directory/.test((await run('stat', path)).stderr);

/** A process that keeps `path` open, and reads it, or asks of it, as it is told. */
async function reader(path: string) {
  const program = `
import os, sys, hashlib
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT) # not from the page cache
print('open', flush=True)
for line in sys.stdin:
    try:
        if line == 'stat\\n': print(os.fstat(fd).st_nlink, os.fstat(fd).st_size, flush=True); continue
        h, at = hashlib.sha256(), 0
        while chunk := os.pread(fd, 1 << 20, at):
            h.update(chunk)
            at += len(chunk)
        print(h.hexdigest(), flush=True)
    except OSError as e: print(e.strerror, flush=True)
`;
  const child = spawn('python3', ['-c', program, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.add(child);
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const answer = async () => (await lines.next()).value;
  await answer();
  return {
    ask: (question: 'read' | 'stat') => {
      child.stdin.write(`${question}\n`);
      return answer();
    },
    async end() {
      child.stdin.end();
      if (child.exitCode === null) await once(child, 'exit');
      children.delete(child);
    },
  };
}

const digest = async (path: string) => text(await run('sha256sum', path)).split(' ')[0];
/** Not one whole file, which the kernel would read by itself. */
const madeDisk = (bytes = 200_000) =>
  workshop.disk([
    ['zero', 512],
    ['data', bytes - 512],
  ]);

await t.test('what comes and what goes', async t => {
  const [a, b, c] = [madeDisk(), madeDisk(), madeDisk()];
  const first = folder('', [folder('volumes', [folder('one', [disk('disk', a.disk)])])]);
  const { dir, mounted } = await mount(first);
  const at = (...names: string[]) => join(dir, 'volumes', ...names);
  t.same(await list(at()), ['one']);
  t.same(await list(at()), ['one'], 'from the cache');
  t.ok(await missing(at('two')));
  t.ok(await missing(at('two', 'disk')), 'remembered as missing');
  t.equal(text(await run('stat', '-c', '%h', at())), '3');

  const made = folder('', [
    folder('volumes', [folder('one', [disk('disk', a.disk)]), folder('two', [disk('disk', b.disk)])]),
  ]);
  await mounted.update(made);
  t.same(await list(at()), ['one', 'two']);
  t.ok(await same(at('two', 'disk'), b.oracle));
  t.ok(await same(at('one', 'disk'), a.oracle));
  t.equal(text(await run('stat', '-c', '%h', at())), '4');

  const replaced = folder('', [
    folder('volumes', [folder('one', [disk('disk', c.disk), disk('p1', a.disk)]), disk('two', b.disk)]),
  ]);
  await mounted.update(replaced);
  t.ok(await same(at('one', 'disk'), c.oracle), 'another disk under the same name');
  t.same(await list(at('one')), ['disk', 'p1']);
  t.ok(await same(at('two'), b.oracle), 'a file where a folder was');

  await mounted.update(folder('', [folder('volumes', [])]));
  t.same(await list(at()), []);
  for (const gone of ['one', 'two']) t.ok(await missing(at(gone)), gone);
  t.ok(await missing(at('one', 'disk')));
  t.equal(text(await run('stat', '-c', '%h', at())), '2');

  await mounted.update(made);
  t.same(await list(at()), ['one', 'two'], 'and back');
  t.ok(await same(at('one', 'disk'), a.oracle));
  const later = new Date(WHEN.getTime() + 60_000);
  await mounted.update({ ...made, entries: [{ ...(made.entries[0] as Directory), modified: later }] });
  t.equal(text(await run('stat', '-c', '%Y', at())), String(Math.floor(later.getTime() / 1000)), 'a time');
});

await t.test('an open file of a name that goes', async t => {
  const [a, b] = [madeDisk(3_000_000), madeDisk(3_000_000)];
  const { dir, mounted } = await mount(folder('', [folder('moment', [disk('disk', a.disk)])]));
  const path = join(dir, 'moment', 'disk');
  const held = await reader(path);
  const wanted = await digest(a.oracle);
  t.equal(await held.ask('read'), wanted);
  await mounted.update(folder('', [folder('moment', [disk('disk', b.disk)])]));
  t.ok(await same(path, b.oracle), 'the name shows another disk');
  t.equal(await held.ask('read'), wanted, 'the open file what it was');
  await mounted.update(folder('', []));
  t.ok(await missing(path));
  t.equal(await held.ask('stat'), `0 ${a.disk.size}`, 'no name any more');
  t.equal(await held.ask('read'), wanted, 'read on');
  a.disk.close();
  t.equal(await held.ask('read'), 'Input/output error', 'until the disk is closed');
  await held.end();
  t.same(await list(dir), []);
});

await t.test('a name that stands for the newest', async t => {
  const [a, b] = [madeDisk(), madeDisk()];
  const moment = (name: string, made: typeof a) => folder(name, [disk('disk', made.disk)]);
  const of = (...moments: Directory[]) =>
    folder('', [folder('volume', moments, name => (name === '@now' ? moments.at(-1) : undefined))]);
  const { dir, mounted } = await mount(of(moment('1', a)));
  const path = join(dir, 'volume', '@now');
  t.ok(await same(join(path, 'disk'), a.oracle));
  await mounted.update(of(moment('1', a), moment('2', b)));
  t.ok(await same(join(path, 'disk'), b.oracle), 'at once');
  t.same(await list(join(dir, 'volume')), ['1', '2']);

  // A program works in it, while others come and go beside it.
  const shell = spawn('sh', ['-c', 'read x; pwd -P; cmp disk "$0"', b.oracle], {
    cwd: path,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  children.add(shell);
  let said = '';
  shell.stdout.setEncoding('utf8').on('data', (more: string) => {
    said += more;
  });
  await mounted.update(of(moment('0', a), moment('2', b)));
  shell.stdin.end('go\n');
  const [status] = await once(shell, 'close');
  children.delete(shell);
  t.equal(status, 0);
  t.equal(said.trim(), path);

  t.equal(text(await run('ls', path)), 'disk');
  await mounted.update(of(moment('0', a)));
  t.ok(await same(join(path, 'disk'), a.oracle));
  await mounted.update(of());
  t.ok(await missing(join(path, 'disk')));
});

await t.test('under readers, for a while', async t => {
  const disks = [1, 2, 3, 4].map(i => (i < 3 ? madeDisk(50_000) : workshop.disk([['data', 50_000]])));
  const moments = (first: number, count: number) =>
    Array.from({ length: count }, (_, i) => {
      const made = disks[(first + i) % disks.length]!;
      return folder(`${first + i}`, [disk('disk', made.disk), folder('below', [disk('p1', made.disk)])]);
    });
  const of = (first: number, count: number) => {
    const all = moments(first, count);
    return folder('', [folder('v', all, name => (name === '@now' ? all.at(-1) : undefined))]);
  };
  const { dir, mounted } = await mount(of(0, 30));
  const program = `
import os, sys, errno
d = sys.argv[1]
while os.getppid() == int(sys.argv[2]):
    try:
        for name in sorted(os.listdir(d))[:5] + ['@now', 'none', '9999']:
            try:
                with open(d + '/' + name + '/disk', 'rb') as f: assert len(f.read()) == 50000
                os.listdir(d + '/' + name + '/below')
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ESTALE): raise
    except Exception as e:
        print(e, flush=True)
        break
`;
  let trouble = '';
  const busy = [1, 2, 3].map(() => {
    const child = spawn('python3', ['-c', program, join(dir, 'v'), String(process.pid)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (more: string) => {
        trouble += more;
      });
    }
    children.add(child);
    return child;
  });
  for (let round = 1; round <= 120; round++) {
    const count = 20 + (round % 20);
    const updates = [mounted.update(of(round, count))];
    // Several at once, of which the last counts.
    if (round % 3 === 0) updates.push(mounted.update(of(round + 500, 5)), mounted.update(of(round, count)));
    await Promise.all(updates);
    if (round % 10 !== 0) continue;
    const wanted = moments(round, count).map(({ name }) => name);
    t.same(await list(join(dir, 'v')), wanted.toSorted());
    const last = round + count - 1;
    t.ok(await same(join(dir, 'v', '@now', 'disk'), disks[last % disks.length]!.oracle), 'the newest');
    t.ok(await missing(join(dir, 'v', String(round - 1))));
  }
  t.equal(trouble, '');
  for (const child of busy) {
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
    children.delete(child);
  }
});

await t.test('a snapshot that becomes invalid', async t => {
  const made = await makeVolume(workshop, 1_000_000);
  const snapshot = await made.snapshot();
  const { dir, mounted } = await mount(folder('', [disk('disk', snapshot)]));
  const path = join(dir, 'disk');
  t.equal((await run('cat', path)).status, 0);
  await made.volume.delete(made.volume.snapshots()[0]!.id);
  await mounted.refresh(snapshot);
  t.match((await run('cat', path)).stderr, /Input\/output error/, 'what the kernel held is gone');
  await made.close();
});

await t.test('what cannot be', async t => {
  const [a, b] = [madeDisk(), madeDisk()];
  const made = await makeVolume(workshop, 1_000_000);
  const { dir, mounted } = await mount(folder('', [disk('a', a.disk)]));
  const twice = folder('', [disk('b', b.disk), disk('b', a.disk)]);
  await t.rejects(mounted.update(twice), { code: 'EINVAL' }, 'a name twice');
  const live: Entry = { kind: 'disk', name: 'live', modified: WHEN, disk: made.live, writable: true };
  await t.rejects(mounted.update(folder('', [live])), { code: 'EINVAL' }, 'a live disk in a read-only mount');
  const no: Entry = { kind: 'disk', name: 'a', modified: WHEN, disk: a.disk, writable: true };
  await t.rejects(mount(folder('', [no])), TypeError, 'a disk that cannot be written');
  t.same(await list(dir), ['a'], 'nothing has changed');
  await mounted.update(folder('', [disk('a', a.disk), disk('b', b.disk)]));
  t.ok(await same(join(dir, 'b'), b.oracle), 'and it goes on');
  await mounted.unmount();
  await t.rejects(mounted.update(folder('', [])), { code: 'NOT_MOUNTED' });

  const later = await mount(folder('', []), true);
  await later.mounted.update(folder('', [live]));
  const path = join(later.dir, 'live');
  t.equal(
    (await run('dd', 'if=/dev/urandom', `of=${path}`, 'bs=1000', 'count=100', 'conv=notrunc')).status,
    0,
  );
  t.ok(await same(path, made.origin), 'a live disk that comes later');
  await later.mounted.update(folder('', []));
  t.same(await list(later.dir), []);
  await made.close();
});
