/**
 * fio writes patterns to the live file and verifies them, by several roads, while snapshots are taken. Those that are
 * taken between two jobs, when nobody writes, have the bytes that the origin has; each keeps the bytes that it had.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MiB } from '../cow/lab.js';
import { filled } from '../cow/rig.js';
import { attempt, missing, run } from '../peers.js';
import { Daemon, type Snapshot, scratch } from './protected.js';
import { isInterrupted, limit, progress, rounds, soaking } from './soak.js';

limit(240_000);

const SIZE = 24 * MiB;

const DIRECT = ['--direct=1', '--ioengine=libaio'];
const JOBS = [
  [...DIRECT, '--rw=randwrite', '--iodepth=8', '--bsrange=512-128k', '--blockalign=512'],
  ['--rw=randwrite', '--ioengine=psync', '--bs=4k', '--fsync=64'],
  ['--rw=write', '--ioengine=psync', '--bsrange=1k-1m', '--bs_unaligned'],
  [
    ...DIRECT,
    '--rw=randrw',
    '--iodepth=4',
    '--bs=64k',
    '--numjobs=2',
    '--size=12m',
    '--offset_increment=12m',
  ],
  ['--rw=randwrite', '--ioengine=mmap', '--bs=8k', '--fsync=32'],
];

t.test('fio --verify', { skip: missing(['fio', 'cmp', 'cp', 'umount'], ['root', 'fuse']) }, t =>
  rounds(t, 1, verified),
);

async function verified(t: Test, seed: number): Promise<void> {
  const folder = scratch(t);
  const origin = join(folder, 'origin');
  writeFileSync(origin, filled(SIZE, seed));
  const daemon = await Daemon.start(t, folder);
  const live = await daemon.protect('disk', origin, '--durability', soaking ? 'power' : 'process');
  const moments: { snapshot: Snapshot; copy: string; what: string }[] = [];

  const keep = async (snapshot: Snapshot, from: string, what: string) => {
    const copy = join(folder, snapshot.id);
    await run('cp', ['--reflink=never', from, copy]);
    moments.push({ snapshot, copy, what });
  };
  for (const [i, job] of JOBS.entries()) {
    if (isInterrupted()) break;
    await keep(await daemon.snapshot('disk'), origin, `before job ${i}`);
    let ended = false;
    const fio = attempt('fio', [
      ...['--name=verify', `--filename=${live}`, `--size=${SIZE}`, `--randseed=${seed + i}`, ...job],
      ...['--allow_file_create=0', '--fallocate=none', '--end_fsync=1', '--group_reporting'],
      ...['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_state_save=0'],
    ]).finally(() => {
      ended = true;
    });
    do {
      const snapshot = await daemon.snapshot('disk');
      await keep(snapshot, daemon.disk('disk', snapshot), `during job ${i}`);
    } while (soaking && !ended);
    const { code, stdout, stderr } = await fio;
    t.equal(code, 0, `${job.join(' ')}${code ? `\n${stdout}${stderr}` : ''}`);
  }
  for (const { snapshot, copy, what } of moments) {
    const { code, stdout, stderr } = await attempt('cmp', [daemon.disk('disk', snapshot), copy]);
    t.equal(code, 0, `${what}: ${stdout}${stderr}`);
  }
  t.equal((await attempt('cmp', [live, origin])).code, 0, 'the origin has what the live file shows');
  progress(`fio: seed ${seed}, ${moments.length} snapshots`);
}
