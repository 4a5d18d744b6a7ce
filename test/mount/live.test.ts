/**
 * The live device of a volume, as a file: what is written by every road is there, in the volume's own file too; nothing
 * changes its size; syncs reach the disk below; failures reach the writer. Snapshots beside it stay what they were.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Mounted } from '../../src/mount/driver.js';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import type { Entry, ShownDisk } from '../../src/mount/tree.js';
import { loadAddon } from '../../src/native.js';
import { cannotMount, python, run, text, Workshop } from './fixture.js';
import { makeVolume, WHEN } from './volume.js';

const why = cannotMount(nativeFuse.unavailable());
if (why) {
  t.plan(0, why);
  process.exit(0);
}

const MiB = 2 ** 20;
const workshop = new Workshop();
const mounts: Mounted[] = [];
t.teardown(async () => {
  for (const mounted of mounts) {
    await mounted.unmount({ lazy: true });
    await mounted.ended;
  }
  workshop.close();
});

async function mount(...entries: Entry[]): Promise<string> {
  const dir = workshop.directory();
  const tree = { kind: 'directory', name: '', modified: WHEN, entries } as const;
  mounts.push(await nativeFuse.mount(tree, { mountPoint: dir, source: 'live', allowOther: false }));
  return dir;
}

const live = (disk: ShownDisk, name = 'live'): Entry => ({
  kind: 'disk',
  name,
  modified: WHEN,
  disk,
  writable: true,
});

/** Writes argv[3] times at random to argv[1], keeps a model, and prints whether all reads agree; argv[4] is the seed. */
const MODEL = `
import os, sys, json, random, mmap
path, mode, count, r = sys.argv[1], sys.argv[2], int(sys.argv[3]), random.Random(int(sys.argv[4]))
fd = os.open(path, os.O_RDWR | (os.O_DIRECT if mode == 'direct' else 0))
size = os.fstat(fd).st_size
buffer = mmap.mmap(-1, 1 << 20)
def pread(at, n):
    n = min(n, size - at)
    got = os.preadv(fd, [memoryview(buffer)[:n]], at)
    return buffer[:got]
model = bytearray()
while len(model) < size: model += pread(len(model), 1 << 20)
unit = 512 if mode == 'direct' else 1
ok = True
for _ in range(count):
    n = min(r.choice([1, 3, 8, 128, 511, 1024, 2047]) * r.choice([1, 7, 256]), (1 << 20) // unit) * unit
    at = r.randrange(size // unit) * unit
    n = min(n, size - at)
    buffer[:n] = r.randbytes(n)
    ok &= os.pwritev(fd, [memoryview(buffer)[:n]], at) == n
    model[at:at + n] = buffer[:n]
    at = r.randrange(size // unit) * unit
    ok &= pread(at, 70 * 512) == model[at:at + 70 * 512]
at = 0
while at < size:
    ok &= pread(at, 1 << 20) == model[at:at + (1 << 20)]
    at += 1 << 20
print(json.dumps(ok))
`;

const MMAP = `
import mmap, os, sys, json
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
m[5000:5005] = b'hello'
m.flush()
first = os.pread(fd, 5, 5000)
os.pwrite(fd, b'world', 5000)
print(json.dumps([first.decode(), m[5000:5005].decode()]))
`;

/** What each of many calls answers: an errno's name, or what it returns. */
const CALLS = `
import os, sys, json, errno, ctypes
d = sys.argv[1]
p = d + '/live'
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = os.open(p, os.O_RDWR)
size = os.fstat(fd).st_size
def tried(f):
    try: return f()
    except OSError as e: return errno.errorcode[e.errno]
def fallocate(mode, at, n):
    if libc.fallocate(fd, mode, at, n): raise OSError(ctypes.get_errno(), '')
    return 'done'
def append():
    with open(p, 'ab', buffering=0) as f: return f.write(b'x')
KEEP, PUNCH, COLLAPSE, ZERO = 1, 2, 8, 16
print(json.dumps({
    'at the end': tried(lambda: os.pwrite(fd, b'x', size)),
    'far behind it': tried(lambda: os.pwrite(fd, b'x', 2 * size)),
    'across it': tried(lambda: os.pwrite(fd, b'x' * 5000, size - 1000)),
    'appended': tried(append),
    'nothing': tried(lambda: os.pwrite(fd, b'', 0)),
    'O_TRUNC': tried(lambda: os.open(p, os.O_WRONLY | os.O_TRUNC)),
    'shorter': tried(lambda: os.ftruncate(fd, size - 512)),
    'longer': tried(lambda: os.truncate(p, size + 512)),
    'as long': tried(lambda: os.ftruncate(fd, size)),
    'times': tried(lambda: os.utime(p, (0, 0))),
    'mode': tried(lambda: os.chmod(p, 0o644)),
    'owner': tried(lambda: os.chown(p, 1, 1)),
    'reserve': tried(lambda: fallocate(0, 0, 4096)),
    'reserve, keep': tried(lambda: fallocate(KEEP, 0, 4096)),
    'collapse': tried(lambda: fallocate(COLLAPSE, 4096, 4096)),
    'zero behind the end': tried(lambda: fallocate(ZERO, size - 512, 1024)),
    'zero, keep': tried(lambda: fallocate(ZERO | KEEP, size - 512, 1024)),
    'punch behind the end': tried(lambda: fallocate(PUNCH | KEEP, size, 4096)),
    'new file': tried(lambda: os.open(d + '/new', os.O_CREAT | os.O_WRONLY)),
    'unlink': tried(lambda: os.unlink(p)),
    'rename': tried(lambda: os.rename(p, d + '/x')),
    'snapshot for writing': tried(lambda: os.open(d + '/snapshot', os.O_RDWR)),
    'snapshot shorter': tried(lambda: os.truncate(d + '/snapshot', 0)),
    'size': os.stat(p).st_size - size,
}))
`;

await t.test('bytes', async t => {
  const before = randomBytes(9 * MiB + 512);
  const made = await makeVolume(workshop, before);
  const snapshot = await made.snapshot();
  const dir = await mount(live(made.live), {
    kind: 'disk',
    name: 'snapshot',
    modified: WHEN,
    disk: snapshot,
  });
  const path = join(dir, 'live');
  t.equal(text(await run('stat', '-c', '%a %s', path)), `600 ${before.length}`);
  t.equal(await python(MODEL, path, 'buffered', '150', '1'), true, 'odd offsets and lengths');
  t.equal(await python(MODEL, path, 'direct', '150', '2'), true, 'O_DIRECT');
  t.equal((await run('cmp', path, made.origin)).status, 0, 'the volume holds the same');

  const bytes = join(workshop.folder, 'bytes');
  t.equal((await run('dd', 'if=/dev/urandom', `of=${bytes}`, 'bs=1M', 'count=9')).status, 0);
  const size = ['-n', String(9 * MiB)];
  for (const flags of [
    ['bs=1M'],
    ['bs=8k', 'oflag=direct'],
    ['bs=3M', 'oflag=direct', 'conv=notrunc,fsync'],
  ]) {
    await run('dd', 'if=/dev/zero', `of=${path}`, 'bs=1M', 'count=9', 'conv=notrunc');
    const dd = await run('dd', `if=${bytes}`, `of=${path}`, 'conv=notrunc', ...flags);
    t.equal(dd.status, 0, dd.stderr);
    t.equal((await run('cmp', ...size, path, bytes)).status, 0, `dd ${flags.join(' ')}`);
  }
  t.equal((await run('cp', '--no-target-directory', bytes, join(workshop.folder, 'other'))).status, 0);
  t.same(await python(MMAP, path), ['hello', 'world'], 'mapped and written, written and mapped');

  const halves = join(workshop.folder, 'halves');
  await run('cp', path, halves);
  const writers = [0, 1, 2, 3].map(i =>
    run(
      'dd',
      `if=${halves}`,
      `of=${path}`,
      'bs=128k',
      `skip=${i * 16}`,
      `seek=${i * 16}`,
      'count=16',
      'conv=notrunc',
    ),
  );
  for (const { status } of await Promise.all(writers)) t.equal(status, 0);
  t.equal((await run('cmp', path, halves)).status, 0, 'four writers at once');

  t.equal(
    (await run('cat', join(dir, 'snapshot'))).stdout.equals(before),
    true,
    'the snapshot is what it was',
  );
  const restored = await run('dd', `if=${join(dir, 'snapshot')}`, `of=${path}`, 'bs=1M', 'conv=notrunc');
  t.equal(restored.status, 0, restored.stderr);
  t.equal(
    (await run('cat', path)).stdout.equals(before),
    true,
    'and can be written back from the same mount',
  );
});

await t.test('a device that looks like a file', async t => {
  const made = await makeVolume(workshop, randomBytes(MiB));
  const dir = await mount(live(made.live), {
    kind: 'disk',
    name: 'snapshot',
    modified: WHEN,
    disk: await made.snapshot(),
  });
  const root = process.geteuid?.() === 0;
  // What the mode of a file or directory forbids, a user meets before us.
  const readOnly = root ? 'EROFS' : 'EACCES';
  t.same(await python(CALLS, dir), {
    'at the end': 'ENOSPC',
    'far behind it': 'ENOSPC',
    'across it': 1000,
    appended: 'ENOSPC',
    nothing: 0,
    O_TRUNC: 'EPERM',
    shorter: 'EPERM',
    longer: 'EPERM',
    'as long': null,
    times: null,
    mode: 'EPERM',
    owner: 'EPERM',
    reserve: 'ENOTSUP', // EOPNOTSUPP has this name too
    'reserve, keep': 'ENOTSUP',
    collapse: 'ENOTSUP',
    'zero behind the end': 'ENOSPC',
    'zero, keep': 'done',
    'punch behind the end': 'done',
    'new file': readOnly,
    unlink: readOnly,
    rename: readOnly,
    'snapshot for writing': readOnly,
    'snapshot shorter': readOnly,
    size: 0,
  });
});

await t.test('punched and zeroed', async t => {
  const before = randomBytes(4 * MiB);
  const made = await makeVolume(workshop, before);
  const path = join(await mount(live(made.live)), 'live');
  const blocks = async () => Number(text(await run('stat', '-c', '%b', path)));
  const held = await blocks();
  t.equal((await run('fallocate', '-p', '-o', String(MiB), '-l', String(MiB), path)).status, 0);
  t.equal(await blocks(), held - MiB / 512, 'its space is given back, and stat knows at once');
  t.equal((await run('fallocate', '-z', '-o', '3000001', '-l', '77777', path)).status, 0);
  const wanted = Buffer.from(before)
    .fill(0, MiB, 2 * MiB)
    .fill(0, 3000001, 3000001 + 77777);
  t.equal((await run('cat', path)).stdout.equals(wanted), true);
  t.equal(readFileSync(made.origin).equals(wanted), true);
});

await t.test('what is synced', async t => {
  const made = await makeVolume(workshop, MiB);
  const path = join(await mount(live(made.live)), 'live');
  const flushes = async (program: string, ...args: string[]) => {
    const before = made.volume.activity().flushes;
    const answer = await run(program, ...args);
    if (answer.status !== 0) throw new Error(answer.stderr);
    return made.volume.activity().flushes - before;
  };
  const dd = (...more: string[]) => flushes('dd', 'if=/dev/zero', `of=${path}`, 'bs=4k', 'count=5', ...more);
  t.equal(await flushes('cat', path), 0, 'a reader syncs nothing');
  t.equal(await dd('conv=notrunc,fsync'), 1, 'fsync');
  t.equal(await dd('conv=notrunc,fdatasync'), 1, 'fdatasync');
  t.equal(await dd('conv=notrunc'), 1, 'close');
  t.equal(await dd('conv=notrunc', 'oflag=dsync'), 5, 'each write with O_DSYNC');
  t.equal(await dd('conv=notrunc', 'oflag=direct,sync'), 5, 'each direct one with O_SYNC');
  t.equal(await flushes('sync', path), 1, 'sync of the file, which this program did not write');
});

await t.test('failures', async t => {
  const { CowMachine } = loadAddon();
  const machine = new CowMachine([MiB]);
  const made = await makeVolume(workshop, MiB, { origin: { machine, file: 0 } });
  const path = join(await mount(live(made.live)), 'live');
  const write = (...more: string[]) =>
    run('dd', 'if=/dev/urandom', `of=${path}`, 'bs=4k', 'count=1', 'conv=notrunc', ...more);
  const EIO = 5;
  const ENOSPC = 28;
  machine.setFaults(0, { writeError: EIO });
  t.match((await write()).stderr, /error writing .*: Input\/output error/);
  machine.setFaults(0, { writeError: ENOSPC });
  t.match((await write()).stderr, /error writing .*: No space left on device/);
  machine.setFaults(0, { syncError: EIO });
  t.match((await write('conv=notrunc,fsync')).stderr, /Input\/output error/, 'fsync');
  t.match((await write()).stderr, /Input\/output error/, 'close');
  t.match((await write('oflag=dsync')).stderr, /Input\/output error/, 'O_DSYNC');
  machine.setFaults(0, { readError: EIO });
  t.match((await run('cat', path)).stderr, /Input\/output error/);
  machine.setFaults(0, {});
  const good = await write();
  t.equal(good.status, 0, `as before, when the disk is ${good.stderr}`);
  made.live.native.close();
  t.match((await run('cat', path)).stderr, /Input\/output error/, 'the disk is closed');
  t.match((await write()).stderr, /Input\/output error/);
});
