/**
 * A volume is overwritten while it is backed up, by more than its store can hold: the backup drains the snapshot, so that it
 * holds, and is right to the byte. Between two looks the backup stands still (SIGSTOP): it is what is counted that decides.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Client } from '../../src/cli/client.js';
import type { Manifest } from '../../src/image/manifest.js';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { scratch } from '../cow/lab.js';
import { randomOf } from '../cow/rig.js';
import { convert, noise } from '../image/peer.js';
import { attempt, missing } from '../peers.js';

t.setTimeout(180_000);

const MiB = 2 ** 20;
const SIZE = 48 * MiB;
const LIMIT = 10 * MiB;
const skip = missing(['umount', 'qemu-img'], ['fuse']);

async function serve(t: Test, state: string, mount: string): Promise<void> {
  const argv = ['serve', '--state', state, '--mount', mount, '--log-level', 'error'];
  const child = spawn(ASOF, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise(done => child.on('close', done));
    child.kill('SIGTERM');
    await ended;
  });
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
}

/** `asof backup`, and what it says in the end. */
function backup(
  t: Test,
  ...argv: string[]
): { child: ChildProcess; said: Promise<string>; over: () => boolean } {
  const child = spawn(ASOF, ['backup', 'vol', ...argv, '--json'], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  let [stdout, stderr] = ['', ''];
  child.stdout!.on('data', piece => {
    stdout += piece;
  });
  child.stderr!.on('data', piece => {
    stderr += piece;
  });
  const said = new Promise<string>((done, failed) =>
    child.on('close', code => (code === 0 ? done(stdout) : failed(new Error(`status ${code}: ${stderr}`)))),
  );
  said.catch(() => {});
  return { child, said, over: () => child.exitCode !== null || child.signalCode !== null };
}

for (const chunk of [65536, 262144]) {
  t.test(`chunks of ${chunk} bytes`, { skip }, async t => {
    const folder = scratch(t);
    const [state, mount, history] = [join(folder, 'state'), join(folder, 'mount'), join(folder, 'history')];
    mkdirSync(mount);
    t.teardown(() => attempt('umount', ['-l', mount]));
    const origin = join(folder, 'origin.img');
    const before = noise(1, SIZE);
    writeFileSync(origin, before);
    await serve(t, state, mount);
    const client = new Client({ state });
    await client.ask('POST', '/volumes', {
      name: 'vol',
      origin,
      chunkSize: chunk,
      storeLimit: LIMIT,
      durability: 'process',
    });
    const counters = async () =>
      (
        await client.ask<{ counters: { copies: number; storeUsed: number; preserved: number } }>(
          'GET',
          '/volumes/vol/activity',
        )
      ).counters;
    const begun = await counters();
    const fd = openSync(join(mount, 'volumes/vol/live'), 'r+');
    t.teardown(() => closeSync(fd));
    const random = randomOf(5);
    const order = Array.from({ length: SIZE / chunk }, (_, i) => i);
    for (let i = order.length - 1; i > 0; i--) {
      const j = random(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    const after = Buffer.from(before);
    const overwrite = (number: number) => {
      const bytes = noise(10_000 + number, chunk);
      bytes.copy(after, number * chunk);
      writeSync(fd, bytes, 0, chunk, number * chunk);
    };

    const { child, said, over } = backup(
      t,
      '--to',
      history,
      '--state',
      state,
      '--rate',
      '8M',
      '--compress',
      'none',
    );
    await eventually(
      async () => over() || (await client.ask<unknown[]>('GET', '/snapshots')).length === 1,
      'the snapshot is there',
    );
    let most = 0;
    // Never so much that the store could be full, and more in all than it can hold.
    for (let copied = 0; copied < 1.5 * LIMIT && !over() && order.length > 0; ) {
      child.kill('SIGSTOP');
      for (let room = LIMIT / 2; room > 0 && order.length > 0; room -= chunk) overwrite(order.pop()!);
      const now = await counters();
      most = Math.max(most, now.storeUsed);
      child.kill('SIGCONT');
      await eventually(
        async () => over() || (await counters()).preserved * chunk < LIMIT / 8,
        'what was preserved is read and given back',
      );
      copied = ((await counters()).copies - begun.copies) * chunk;
    }
    child.kill('SIGCONT');
    const manifest = JSON.parse(await said) as Manifest;
    const ended = await counters();
    t.ok((ended.copies - begun.copies) * chunk > LIMIT, 'more was copied than the store holds');
    t.ok(most <= LIMIT);
    t.equal(ended.preserved, 0);
    t.equal(manifest.read, SIZE, 'each byte was read once');
    t.equal(manifest.sha256, null, 'not in their order');
    t.ok(convert(join(history, manifest.image.file)).equals(before), 'it is the moment at which it began');
    t.same(await client.ask('GET', '/snapshots'), [], 'no snapshot is left');

    const expected = Buffer.from(after);
    const second = backup(t, '--to', history, '--state', state);
    const incremental = JSON.parse(await second.said) as Manifest;
    t.equal(incremental.method, 'tracked');
    t.ok(convert(join(history, incremental.image.file)).equals(expected));
    t.equal((await asof('verify', history, '--deep')).status, 0);
    t.equal((await asofJson<{ points: unknown[] }>('history', history)).points.length, 2);
  });
}
