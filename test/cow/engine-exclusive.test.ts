/**
 * A store and a tracker have one user at a time, whoever it is and however it ends: two processes, two opens in one, a
 * process that is stopped, and one that was killed while a thread of it hangs in the kernel with a write that may yet land.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { errnoOf } from '../../src/errors.js';
import type { CowOptions } from '../../src/native.js';
import { attempt, missing, run } from '../peers.js';
import { emptyFile, MiB, scratch } from './lab.js';
import { codeOf, filled, openVolume, readAll, snapshot } from './rig.js';

const SIZE = 16 * 65536;
const NAMES = ['origin', 'store', 'tracker'] as const;

async function open(dir: string, options: Partial<CowOptions> = {}, storeDir = dir) {
  const path = (name: string) => join(name === 'store' ? storeDir : dir, name);
  const [origin, store, tracker] = NAMES.map(name => openSync(path(name), 'r+'));
  try {
    return await openVolume({
      size: SIZE,
      origin: origin!,
      store: store!,
      tracker: tracker!,
      create: false,
      ...options,
    });
  } finally {
    for (const fd of [origin, store, tracker]) closeSync(fd!);
  }
}

function files(dir: string, storeDir = dir): void {
  for (const name of NAMES)
    emptyFile(join(name === 'store' ? storeDir : dir, name), name === 'origin' ? SIZE : 0);
  writeFileSync(join(dir, 'origin'), filled(SIZE, 1));
}

/** What opening it says: the code and the sentence. */
async function refusal(opening: Promise<{ volume: { abandon(): void } }>) {
  try {
    (await opening).volume.abandon();
    return { code: '', message: '' };
  } catch (error) {
    return { code: errnoOf(error), message: error instanceof Error ? error.message : '' };
  }
}

/** A process that has the volume, took a snapshot, and does what it is told on its standard input. */
async function holder(t: Test, dir: string, storeDir = dir) {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), 'child', dir, storeDir], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => (await lines.next()).value as string;
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()));
  return { child, next, ended, id: (await next()).split(' ')[1]! };
}

async function child(dir: string, storeDir: string): Promise<void> {
  const { volume, live } = await open(dir, {}, storeDir);
  process.stdout.write(`took ${await snapshot(volume)}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    if (line !== 'write') continue;
    process.stdout.write('writing\n');
    await live.write(0, filled(65536, 2));
    process.stdout.write('written\n');
  }
}

/** States of its threads, as the kernel has them. */
function threadStates(child: ChildProcess): string[] {
  const text = readFileSync(`/proc/${child.pid}/status`, 'latin1');
  return /^State:\s+(\w)/m.exec(text)?.slice(1) ?? [];
}

async function until(met: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await met())) await new Promise(resolve => setTimeout(resolve, 20));
}

if (process.argv[2] === 'child') {
  await child(process.argv[3]!, process.argv[4]!);
} else {
  t.test('another process is refused, in words, until the one that has it ends', async t => {
    const dir = scratch(t);
    files(dir);
    const made = await open(dir, { create: true });
    await made.volume.close();
    const { child, id, ended } = await holder(t, dir);
    const named = new RegExp(`process ${child.pid} \\(`);
    const first = await refusal(open(dir));
    t.match(first, { code: 'EBUSY', message: named });
    t.match(first.message, /tracker/, 'the tracker is taken first');
    // Each by itself: neither may be shared.
    copyFileSync(join(dir, 'tracker'), join(dir, 'other'));
    const tracker = openSync(join(dir, 'other'), 'r+');
    t.match(await refusal(open(dir, { tracker })), {
      code: 'EBUSY',
      message: /^the store is locked by process/,
    });
    closeSync(tracker);
    child.kill('SIGSTOP');
    await until(() => threadStates(child)[0] === 'T');
    t.match(await refusal(open(dir)), { code: 'EBUSY', message: /, which is stopped$/ });
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    // Not waited for: a holder that is dying is.
    await until(async () => (await refusal(open(dir))).code === '');
    await ended;
    const { volume } = await open(dir);
    t.match(volume.snapshots(), [{ id, state: 'live' }]);
    await volume.close();
  });

  t.test('two opens at the same moment: one has it', async t => {
    const dir = scratch(t);
    files(dir);
    await (await open(dir, { create: true })).volume.close();
    for (let round = 0; round < 20; round++) {
      // By descriptors of their own, and by one that both share.
      const shared = round % 2 === 0 ? undefined : openSync(join(dir, 'tracker'), 'r+');
      const options = shared === undefined ? {} : { tracker: shared };
      const both = await Promise.allSettled([open(dir, options), open(dir, options)]);
      const good = both.filter(one => one.status === 'fulfilled');
      const bad = both.filter(one => one.status === 'rejected');
      t.equal(good.length, 1);
      t.match(bad[0]?.reason, { code: 'EBUSY', message: /this process/ });
      t.match(await refusal(open(dir, options)), { code: 'EBUSY' });
      const { volume } = good[0]!.value;
      if (round % 3 === 0) volume.abandon();
      else await volume.close();
      if (shared !== undefined) closeSync(shared);
    }
    // One store under two trackers.
    const tracker = openSync(join(dir, 'tracker'), 'r+');
    const store = openSync(join(dir, 'store'), 'r+');
    const { volume } = await open(dir, { tracker, store });
    t.match(await refusal(open(dir, { tracker: null, store })), {
      code: 'EBUSY',
      message: 'the store is in use: this process has it open already',
    });
    await volume.close();
    t.match(await refusal(open(dir, { tracker: null, store })), { code: '' });
    closeSync(tracker);
    closeSync(store);
  });

  // What this is all about: SIGKILL does not end a thread that waits in the kernel, and what it wrote lands later. The file
  // system of the store is frozen, as a disk that does not answer is.
  const needs = missing(['mke2fs', 'mount', 'umount', 'fsfreeze'], ['root', 'loop']);
  t.test('a killed process whose write hangs in the kernel keeps the store', { skip: needs }, async t => {
    const dir = scratch(t);
    const image = emptyFile(join(dir, 'fs.img'), 32 * MiB);
    await run('mke2fs', ['-q', '-F', '-t', 'ext4', image]);
    const there = join(dir, 'there');
    mkdirSync(there);
    await run('mount', ['-o', 'loop', image, there]);
    t.teardown(() => attempt('umount', [there]));
    files(dir, there);
    await (await open(dir, { create: true }, there)).volume.close();
    const { child, next, ended, id } = await holder(t, dir, there);
    await run('fsfreeze', ['-f', there]);
    let frozen = true;
    const thaw = async () => {
      if (frozen) await run('fsfreeze', ['-u', there]);
      frozen = false;
    };
    t.teardown(thaw);
    child.stdin.write('write\n');
    t.equal(await next(), 'writing');
    // Until the thread that writes waits in the kernel.
    const tasks = () => run('ps', ['-L', '-o', 'stat=', '-p', String(child.pid)]);
    await until(async () => /^D/m.test(await tasks()));
    child.kill('SIGKILL');
    await until(() => threadStates(child)[0] === 'Z');
    const killed = await refusal(open(dir, {}, there));
    t.match(killed, { code: 'EBUSY', message: new RegExp(`process ${child.pid} .*killed.*may yet land`) });
    await thaw();
    await ended;
    const { volume, live } = await open(dir, {}, there);
    t.match(volume.snapshots(), [{ id, state: 'live' }]);
    const now = await readAll(live, SIZE);
    t.ok(now.subarray(65536).equals(filled(SIZE, 1).subarray(65536)));
    t.ok((await readAll(volume.disk(id), SIZE)).equals(filled(SIZE, 1)), 'the late write did no harm');
    await volume.close();
  });

  t.test('after a close and after an abandon everything is ESHUTDOWN', async t => {
    for (const end of ['close', 'abandon'] as const) {
      const dir = scratch(t);
      files(dir);
      const { volume, live } = await open(dir, { create: true });
      const disk = volume.disk(await snapshot(volume));
      await live.write(0, filled(65536, 2));
      await volume[end]();
      const into = Buffer.alloc(512);
      t.equal(await codeOf(live.read(0, into)), 'ESHUTDOWN', `${end}: live`);
      t.equal(await codeOf(live.write(0, into)), 'ESHUTDOWN');
      t.equal(await codeOf(live.writeZeroes(0, 512, true)), 'ESHUTDOWN');
      t.equal(await codeOf(live.flush()), 'ESHUTDOWN');
      for (const offset of [0, 65536])
        t.equal(await codeOf(disk.read(offset, into)), 'ESHUTDOWN', `${end}: the snapshot at ${offset}`);
      t.same(disk.defects(), [], 'nothing is damaged');
    }
  });
}
