/**
 * Random reads, writes, punches, zeroed ranges, flushes and snapshots through the live file, at any offset and of any
 * length, against arrays of bytes: the volume's, and one for each snapshot, a copy of the volume's when it was taken. The
 * daemon is stopped and killed in between, and goes on with what it had. After the program `fsx` of Apple, long since
 * everybody's.
 */
import {
  closeSync,
  constants,
  fdatasyncSync,
  fsyncSync,
  openSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Client } from '../../src/cli/client.js';
import { filled, randomOf } from '../cow/rig.js';
import { missing, run } from '../peers.js';
import { Daemon, type Snapshot, scratch } from './protected.js';
import { isInterrupted, limit, progress, rounds } from './soak.js';

limit(240_000);

const STEPS = 800;
const VOLUMES = 2;
/** Snapshots that are there at a time. */
const MOMENTS = 6;

t.test('against a model', { skip: missing(['fallocate', 'umount'], ['root', 'fuse']) }, t =>
  rounds(t, VOLUMES, against),
);

interface Changes {
  readonly exact: boolean;
  readonly why: string;
  readonly extents: readonly { readonly start: number; readonly length: number }[];
}

interface Moment {
  readonly snapshot: Snapshot;
  readonly bytes: Buffer;
}

async function against(t: Test, seed: number): Promise<void> {
  const random = randomOf(seed);
  const one = <T>(of: readonly T[]): T => of[random(of.length)]!;
  const chunk = one([4096, 16384, 65536, 262144]);
  const sectors = 2048 + random(12_000);
  const durability = one(['process', 'process', 'power']);
  const title = `${sectors} sectors, chunks of ${chunk}, ${durability}`;
  const folder = scratch(t);
  const origin = join(folder, 'origin');
  const model = filled(sectors * 512, seed);
  writeFileSync(origin, model);
  const daemon = await Daemon.start(t, folder);
  const client = new Client({ state: daemon.state });
  const live = await daemon.protect('disk', origin, '--chunk', String(chunk), '--durability', durability);
  const moments: Moment[] = [];
  const fds: number[] = [];
  const open = () => {
    const flags = [constants.O_RDWR, constants.O_RDWR | constants.O_DIRECT];
    fds.push(...flags.map(one => openSync(live, one)));
  };
  const close = () => {
    for (const fd of fds.splice(0)) closeSync(fd);
  };
  t.teardown(close); // before the daemon goes
  open();

  /** Any range; one of whole sectors for direct input and output. */
  const range = (unit = 1) => {
    const whole = model.length / unit;
    const at = random(4) === 0 ? Math.floor(random(whole) / 8) * 8 : random(whole);
    const most = one([1, 9, 300, 5000, 70_000, 400_000]);
    const length = Math.min(1 + random(Math.max(1, Math.floor(most / unit))), whole - at);
    return { at: at * unit, length: length * unit };
  };
  const same = (is: Buffer, wanted: Buffer, at: number, what: string) => {
    if (is.equals(wanted)) return;
    const first = is.findIndex((byte, i) => byte !== wanted[i]);
    throw new Error(`${title}: ${what}: the byte ${at + first} is ${is[first]}, not ${wanted[first]}`);
  };
  const readOf = (fd: number, at: number, length: number) => {
    const bytes = Buffer.alloc(length);
    for (let done = 0; done < length; ) {
      const got = readSync(fd, bytes, done, length - done, at + done);
      if (got === 0) throw new Error(`${title}: the end is at ${at + done}`);
      done += got;
    }
    return bytes;
  };
  const check = ({ snapshot, bytes }: Moment, { at, length }: { at: number; length: number }) => {
    const fd = openSync(daemon.disk('disk', snapshot), 'r');
    try {
      same(readOf(fd, at, length), bytes.subarray(at, at + length), at, `snapshot ${snapshot.moment}`);
    } finally {
      closeSync(fd);
    }
  };
  const all = { at: 0, length: model.length };
  /** What is said to have changed since a snapshot has all that differs; it is exact unless the daemon was killed. */
  const checkChanges = async ({ snapshot, bytes }: Moment) => {
    const told = await client.ask<Changes>('GET', `/volumes/disk/changes?since=${snapshot.id}`);
    if (!told.exact && !(killed && /was not closed/.test(told.why))) {
      throw new Error(`${title}: changes are not exact: ${told.why}`);
    }
    const rest = Buffer.from(model);
    for (const { start, length } of told.extents) bytes.copy(rest, start, start, start + length);
    same(rest, bytes, 0, `step ${step}: not told as changed since ${snapshot.moment}`);
  };
  const checkAll = async () => {
    same(readOf(fds[0]!, 0, model.length), model, 0, 'the live file');
    for (const moment of moments) {
      check(moment, all);
      await checkChanges(moment);
    }
  };

  let step = 0;
  let killed = false;
  const steps = {
    read() {
      const direct = random(2);
      const { at, length } = range(direct ? 512 : 1);
      same(readOf(fds[direct]!, at, length), model.subarray(at, at + length), at, `step ${step}: read`);
    },
    write() {
      const direct = random(2);
      const { at, length } = range(direct ? 512 : 1);
      const bytes = filled(length + 8, (seed + step * 7919) >>> 0).subarray(0, length);
      for (let done = 0; done < length; )
        done += writeSync(fds[direct]!, bytes, done, length - done, at + done);
      bytes.copy(model, at);
    },
    async punch() {
      const { at, length } = range(one([1, 512, 4096]));
      await run('fallocate', ['-p', '-o', String(at), '-l', String(length), live]);
      model.fill(0, at, at + length);
    },
    async zero() {
      const { at, length } = range(one([1, 512, 4096]));
      await run('fallocate', ['-z', '-n', '-o', String(at), '-l', String(length), live]);
      model.fill(0, at, at + length);
    },
    flush() {
      one([fsyncSync, fdatasyncSync])(fds[random(2)]!);
    },
    async snapshot() {
      if (moments.length >= MOMENTS) {
        const [gone] = moments.splice(random(moments.length), 1);
        check(gone!, all);
        await client.ask('DELETE', `/snapshots/${gone!.snapshot.id}`);
      }
      const [snapshot] = await client.ask<Snapshot[]>('POST', '/snapshots', { volumes: ['disk'] });
      moments.push({ snapshot: snapshot!, bytes: Buffer.from(model) });
    },
    look() {
      if (moments.length > 0) check(one(moments), range());
    },
    async changes() {
      if (moments.length > 0) await checkChanges(one(moments));
    },
    async restart() {
      close();
      const signal = one(['SIGTERM', 'SIGKILL'] as const);
      killed ||= signal === 'SIGKILL';
      const status = await daemon.end(signal);
      if (signal === 'SIGTERM' && status !== 0) throw new Error(`${title}: asof serve ended with ${status}`);
      await daemon.start();
      open();
      await checkAll();
    },
  };
  const weights: Record<keyof typeof steps, number> = {
    write: 400,
    read: 200,
    look: 120,
    punch: 50,
    zero: 50,
    snapshot: 40,
    flush: 30,
    changes: 20,
    restart: 2,
  };
  const names = Object.entries(weights).flatMap(([name, weight]) =>
    new Array<keyof typeof steps>(weight).fill(name as keyof typeof steps),
  );
  for (; step < STEPS && !isInterrupted(); step++) await steps[one(names)]();
  await steps.restart();
  t.pass(`${step} steps, and ${moments.length} snapshots are what they were`);
  close();
  t.equal(await daemon.end('SIGTERM'), 0, 'a clean end');
  const fd = openSync(origin, 'r');
  same(readOf(fd, 0, model.length), model, 0, 'the origin');
  closeSync(fd);
  progress(title);
}
