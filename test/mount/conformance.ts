/**
 * What every mount driver must do, shown by real programs that read the mount.
 *
 * `Abilities` says what a driver cannot: the tests then expect the lesser thing, or do without.
 */
import { join } from 'node:path';
import type t from 'tap';
import type { MountDriver, Mounted } from '../../src/mount/driver.js';
import type { Directory, Tree } from '../../src/mount/tree.js';
import { cannotMount, has, type MadeDisk, python, type Run, run, text, Workshop } from './fixture.js';

export interface Abilities {
  /** SEEK_DATA and SEEK_HOLE tell the holes. */
  readonly sparse: boolean;
  /** O_DIRECT reads arrive as they are asked, so that damage is lost by the sector and not by the page. */
  readonly direct: boolean;
  /** Mount it so that it might hold disks that can be written. */
  readonly writable?: boolean;
}

type Test = Pick<typeof t, 'test' | 'teardown' | 'pass' | 'equal'>;

const WHEN = new Date('2026-11-21T10:15:00.250Z');
const KiB = 1024;

const MIXED: readonly Run[] = [
  ['data', 64 * KiB],
  ['zero', 1024 * KiB],
  ['data', 512],
  ['zero', 4096 - 512],
  ['data', 2048 * KiB],
  ['zero', 128 * KiB],
  ['data', 3 * 512],
];
/** Neither its size nor its runs are multiples of anything. */
const ODD: readonly Run[] = [
  ['zero', 1000],
  ['data', 999_001],
];
const DAMAGED: readonly Run[] = [
  ['data', 20 * 512],
  ['bad', 512],
  ['data', 64 * KiB - 21 * 512],
  ['bad', 4096],
  ['zero', 64 * KiB],
  ['bad', 2 * 512],
  ['data', 1024 * KiB],
  ['bad', 512],
];
const SPARSE: readonly Run[] = [
  ['zero', 4 * 2 ** 20],
  ['data', 4096],
  ['zero', 4 * 2 ** 20],
];

/** Reads each `size` bytes of argv[1] (O_DIRECT if argv[2] is "direct") and prints where that failed, and how. */
const BLOCKWISE = `
import os, sys, mmap, json, errno
path, mode, size, oracle = sys.argv[1], sys.argv[2], int(sys.argv[3]), open(sys.argv[4], 'rb').read()
fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if mode == 'direct' else 0))
buffer, failed, wrong = mmap.mmap(-1, max(size, 4096)), [], []
for at in range(0, len(oracle), size):
    want = oracle[at:at + size]
    try:
        n = os.preadv(fd, [memoryview(buffer)[:size]], at)
        if buffer[:n] != want: wrong.append(at)
    except OSError as e:
        failed.append([at, errno.errorcode[e.errno]])
print(json.dumps({'failed': failed, 'wrong': wrong}))
`;

const SEEK_MAP = `
import os, sys, json, errno
fd, at, runs = os.open(sys.argv[1], os.O_RDONLY), 0, []
end = os.fstat(fd).st_size
while at < end:
    try: start = os.lseek(fd, at, os.SEEK_DATA)
    except OSError as e:
        assert e.errno == errno.ENXIO
        break
    at = os.lseek(fd, start, os.SEEK_HOLE)
    runs.append([start, at - start])
print(json.dumps(runs))
`;

const MMAP = `
import mmap, os, sys, json, random
fd, want = os.open(sys.argv[1], os.O_RDONLY), open(sys.argv[2], 'rb').read()
m = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
r = random.Random(int(sys.argv[3]))
spots = [r.randrange(len(want)) for _ in range(400)]
print(json.dumps(all(m[s:s + 5000] == want[s:s + 5000] for s in spots) and m[:] == want))
`;

const PREAD = `
import os, sys, json, random
fd, want = os.open(sys.argv[1], os.O_RDONLY), open(sys.argv[2], 'rb').read()
r = random.Random(int(sys.argv[3]))
def ok():
    at, n = r.randrange(len(want) + 3000), r.choice([1, 511, 4096, 70000, 300000])
    return os.pread(fd, n, at) == want[at:at + n]
print(json.dumps(all(ok() for _ in range(400))))
`;

/** What writing in every way answers. */
const WRITES = `
import os, sys, json, errno
d = sys.argv[1]
def tried(f):
    try: f()
    except OSError as e: return errno.errorcode[e.errno]
    return 'done'
print(json.dumps([tried(f) for f in (
    lambda: os.open(d + '/disk', os.O_WRONLY), lambda: os.open(d + '/disk', os.O_RDWR),
    lambda: os.open(d + '/new', os.O_CREAT | os.O_WRONLY), lambda: os.mkdir(d + '/new'),
    lambda: os.unlink(d + '/disk'), lambda: os.rename(d + '/disk', d + '/other'),
    lambda: os.truncate(d + '/disk', 0), lambda: os.chmod(d + '/disk', 0o777),
    lambda: os.utime(d + '/disk', (0, 0)), lambda: os.symlink('x', d + '/new'))]))
`;

export async function mountConformance(t: Test, driver: MountDriver, abilities: Abilities): Promise<void> {
  await t.test(`the driver ${driver.name}`, t => suite(t, driver, abilities));
}

async function suite(t: Test, driver: MountDriver, abilities: Abilities): Promise<void> {
  const why = cannotMount(driver.unavailable());
  if (why) {
    t.pass(`the driver ${driver.name} cannot be tested here: ${why}`, { skip: why });
    return;
  }
  const workshop = new Workshop();
  const disks = {
    mixed: workshop.disk(MIXED),
    odd: workshop.disk(ODD),
    damaged: workshop.disk(DAMAGED),
    sparse: workshop.disk(SPARSE),
    empty: workshop.disk([]),
  };
  let defects = 0;
  const point: Directory = {
    kind: 'directory',
    name: '2026-11-21T10-15-00Z',
    modified: WHEN,
    entries: [
      { kind: 'disk', name: 'disk', modified: WHEN, disk: disks.mixed.disk },
      { kind: 'disk', name: 'p1', modified: WHEN, disk: disks.odd.disk },
      { kind: 'directory', name: 'below', modified: WHEN, entries: [] },
    ],
  };
  const tree: Tree = {
    kind: 'directory',
    name: '',
    modified: WHEN,
    entries: [
      { kind: 'disk', name: 'disk', modified: WHEN, disk: disks.mixed.disk },
      { kind: 'disk', name: 'odd', modified: WHEN, disk: disks.odd.disk },
      { kind: 'disk', name: 'damaged', modified: WHEN, disk: disks.damaged.disk },
      { kind: 'disk', name: 'sparse', modified: WHEN, disk: disks.sparse.disk },
      { kind: 'disk', name: 'empty', modified: WHEN, disk: disks.empty.disk },
      { kind: 'text', name: 'info.json', modified: WHEN, text: () => '{"name":"ü"}\n' },
      { kind: 'text', name: 'defects.json', modified: WHEN, text: () => `${'x'.repeat(defects)}\n` },
      { kind: 'text', name: 'long name with blanks, ünd so weiter', modified: WHEN, text: () => '' },
      point,
      { kind: 'directory', name: 'none', modified: WHEN, entries: [] },
    ],
    find: name => (name === '@2026-11-22' ? point : undefined),
  };
  const dir = workshop.directory();
  let mounted: Mounted | undefined;
  t.teardown(async () => {
    await mounted?.unmount({ lazy: true });
    await mounted?.ended;
    workshop.close();
  });
  mounted = await driver.mount(tree, {
    mountPoint: dir,
    source: '/images/a, b\\c.qcow2',
    allowOther: false,
    writable: abilities.writable ?? false,
  });
  const at = (...names: string[]) => join(dir, ...names);
  const same = async (made: MadeDisk, ...names: string[]) => {
    const answer = await run('cmp', at(...names), made.oracle);
    return answer.status === 0 ? 'same' : answer.stderr + text(answer);
  };

  t.equal(mounted.mountPoint, dir);

  await t.test('names', async t => {
    const answer = await run('find', dir, '-printf', '%y %P\n');
    t.equal(answer.status, 0, answer.stderr);
    t.same(
      text(answer).split('\n').sort(),
      [
        'd ',
        'd 2026-11-21T10-15-00Z',
        'd 2026-11-21T10-15-00Z/below',
        'd none',
        'f 2026-11-21T10-15-00Z/disk',
        'f 2026-11-21T10-15-00Z/p1',
        'f damaged',
        'f defects.json',
        'f disk',
        'f empty',
        'f info.json',
        'f long name with blanks, ünd so weiter',
        'f odd',
        'f sparse',
      ].sort(),
    );
    t.match((await run('cat', at('no such name'))).stderr, /No such file or directory/);
    t.match(
      (await run('cat', at('no such name'))).stderr,
      /No such file or directory/,
      'nor the second time',
    );
    t.match((await run('cat', at('disk', 'x'))).stderr, /Not a directory/);
    t.match((await run('cat', at('none'))).stderr, /Is a directory/);
  });

  await t.test('a name that is not listed resolves', async t => {
    t.equal(await same(disks.mixed, '@2026-11-22', 'disk'), 'same');
    t.equal(await same(disks.mixed, point.name, 'disk'), 'same', 'beside the listed one');
    t.equal(text(await run('ls', at('@2026-11-22'))), 'below\ndisk\np1');
    t.equal(text(await run('ls', at(point.name))), 'below\ndisk\np1');
    t.equal(text(await run('ls', at('@2026-11-22', 'below'))), '');
    t.match((await run('cat', at('@1999'))).stderr, /No such file or directory/);
    t.notMatch(text(await run('ls', dir)), /@/);
  });

  await t.test('attributes', async t => {
    const stat = async (name: string, format: string) => text(await run('stat', '-c', format, at(name)));
    for (const [name, { disk }] of [
      ['disk', disks.mixed],
      ['odd', disks.odd],
      ['damaged', disks.damaged],
      ['empty', disks.empty],
    ] as const) {
      t.equal(await stat(name, '%F %s %a'), `regular${disk.size ? '' : ' empty'} file ${disk.size} 444`);
    }
    t.equal(await stat('none', '%F %a'), 'directory 555');
    t.equal(await stat('disk', '%.3Y'), `${WHEN.getTime() / 1000}0`);
    t.equal(await stat('disk', '%u'), String(process.geteuid?.()));
    // The first 64 KiB, 512 bytes, 2 MiB and three sectors; 4 KiB.
    t.equal(await stat('disk', '%b'), String(128 + 1 + 4096 + 3), 'st_blocks');
    t.equal(await stat('sparse', '%b'), '8');
  });

  await t.test('buffered, mapped and direct reads, four at once', async t => {
    t.same(
      await Promise.all([
        same(disks.mixed, 'disk'),
        same(disks.odd, 'odd'),
        same(disks.sparse, 'sparse'),
        same(disks.empty, 'empty'),
      ]),
      ['same', 'same', 'same', 'same'],
    );
    const seeds = ['1', '2', '3', '4'];
    t.same(
      await Promise.all(seeds.map(seed => python(PREAD, at('disk'), disks.mixed.oracle, seed))),
      [true, true, true, true],
      'random pread, across the end too',
    );
    t.same(
      await Promise.all(seeds.map(seed => python(MMAP, at('disk'), disks.mixed.oracle, seed))),
      [true, true, true, true],
      'mmap',
    );
    t.equal(await python(MMAP, at('odd'), disks.odd.oracle, '5'), true, 'mmap of an odd size');
    for (const size of ['512', '4096', '65536', '1048576']) {
      const wrong = await python(BLOCKWISE, at('disk'), 'direct', size, disks.mixed.oracle);
      t.same(wrong, { failed: [], wrong: [] }, `O_DIRECT by ${size}`);
    }
    t.same(await python(BLOCKWISE, at('odd'), 'direct', '4096', disks.odd.oracle), { failed: [], wrong: [] });
  });

  await t.test('past the end', async t => {
    const dd = await run('dd', `if=${at('odd')}`, 'bs=1', 'skip=1000000', 'count=10');
    t.equal(dd.stdout.length, 1, 'the last byte, and no more');
    const after = await run('dd', `if=${at('disk')}`, 'bs=4096', 'skip=100000', 'count=1', 'iflag=direct');
    t.equal(after.stdout.length, 0);
  });

  await t.test('holes', { skip: abilities.sparse ? false : 'this driver does not tell them' }, async t => {
    t.same(await python(SEEK_MAP, at('disk')), dataRuns(MIXED));
    t.same(await python(SEEK_MAP, at('sparse')), dataRuns(SPARSE));
    t.same(await python(SEEK_MAP, at('odd')), dataRuns(ODD));
    t.same(await python(SEEK_MAP, at('damaged')), dataRuns(DAMAGED), 'what is damaged is no hole');
    const copy = join(workshop.folder, 'copy');
    t.equal((await run('cp', '--sparse=auto', at('sparse'), copy)).status, 0);
    t.equal((await run('cmp', copy, disks.sparse.oracle)).status, 0);
  });

  await t.test('damage', async t => {
    const pages = damagedBlocks(4096).map(start => [start, 'EIO']);
    const { oracle } = disks.damaged;
    t.same(await python(BLOCKWISE, at('damaged'), 'buffered', '4096', oracle), { failed: pages, wrong: [] });
    t.same(
      await python(BLOCKWISE, at('damaged'), 'buffered', '4096', oracle),
      { failed: pages, wrong: [] },
      'and again, from the cache',
    );
    t.match((await run('cat', at('damaged'))).stderr, /Input\/output error/);
    t.equal(
      (await run('cat', at('damaged'))).stdout.length,
      pages[0]?.[0],
      'cat stops at the first damaged page',
    );
    const sectors = damagedBlocks(abilities.direct ? 512 : 4096).map(start => [start, 'EIO']);
    const size = abilities.direct ? '512' : '4096';
    t.same(await python(BLOCKWISE, at('damaged'), 'direct', size, oracle), { failed: sectors, wrong: [] });
    t.same(
      disks.damaged.disk.defects().map(({ offset, length }) => [offset, length]),
      runsOf(DAMAGED, kind => kind === 'bad'),
      'the defect list',
    );
  });

  await t.test('nothing can be written', async t => {
    const answers = await python(WRITES, dir);
    t.same(answers, Array<string>(10).fill('EROFS'));
  });

  await t.test('texts tell news', async t => {
    t.equal(text(await run('cat', at('info.json'))), '{"name":"ü"}');
    for (const length of [0, 5, 100_000, 3]) {
      defects = length;
      const answer = await run('cat', at('defects.json'));
      t.equal(answer.stdout.length, length + 1, `${length} characters`);
      t.equal(text(await run('stat', '-c', '%s', at('defects.json'))), String(length + 1));
    }
    t.equal((await run('cat', at('long name with blanks, ünd so weiter'))).stdout.length, 0);
    const copy = join(workshop.folder, 'text');
    t.equal((await run('cp', at('info.json'), copy)).status, 0);
    t.equal(text(await run('cat', copy)), '{"name":"ü"}');
  });

  await t.test('statfs', async t => {
    const answer = await run('stat', '-f', '-c', '%a %l', dir);
    t.equal(text(answer), '0 255', 'nothing free, long names');
    t.equal(text(await run('findmnt', '-n', '-o', 'SOURCE', dir)), '/images/a, b\\c.qcow2');
  });

  await t.test('what a driver cannot do is refused', async t => {
    const refused = { code: 'DRIVER_UNAVAILABLE' };
    if (driver.can.change) {
      await mounted?.update({ ...tree });
      await mounted?.refresh(disks.mixed.disk);
      t.equal(await same(disks.mixed, 'disk'), 'same', 'an equal tree');
    } else {
      await t.rejects(mounted?.update(tree), refused);
      await t.rejects(mounted?.refresh(disks.mixed.disk), refused);
    }
    if (!driver.can.write) {
      const options = { mountPoint: workshop.directory(), source: 'x', allowOther: false };
      await t.rejects(driver.mount(tree, { ...options, writable: true }), refused);
      const live = { ...tree.entries[0]!, writable: true };
      await t.rejects(driver.mount({ ...tree, entries: [live] }, options), refused);
    }
  });

  const isRoot = process.geteuid?.() === 0;
  await t.test(
    'a loop device',
    { skip: isRoot && has('losetup') ? false : 'needs root and losetup' },
    async t => {
      const setup = await run('losetup', '--read-only', '--find', '--show', at('disk'));
      t.equal(setup.status, 0, setup.stderr);
      const device = text(setup);
      try {
        t.equal((await run('cmp', device, disks.mixed.oracle)).status, 0);
      } finally {
        await run('losetup', '-d', device);
      }
    },
  );

  await mounted.unmount();
  t.equal(await mounted.ended, 'unmounted');
  t.equal(text(await run('ls', dir)), '', 'nothing is left in the directory');
}

/** [start, length] of each run of neighbours that `wanted` takes. */
function runsOf(runs: readonly Run[], wanted: (kind: Run[0]) => boolean): number[][] {
  const found: number[][] = [];
  let at = 0;
  for (const [kind, length] of runs) {
    const last = found.at(-1);
    if (wanted(kind)) {
      if (last && last[0]! + last[1]! === at) last[1]! += length;
      else found.push([at, length]);
    }
    at += length;
  }
  return found;
}

function dataRuns(runs: readonly Run[]): number[][] {
  return runsOf(runs, kind => kind !== 'zero');
}

/** The starts of the blocks of `size` bytes in which anything is damaged. */
function damagedBlocks(size: number): number[] {
  const starts = new Set<number>();
  for (const [start, length] of runsOf(DAMAGED, kind => kind === 'bad')) {
    for (let at = start! - (start! % size); at < start! + length!; at += size) starts.add(at);
  }
  return [...starts];
}
