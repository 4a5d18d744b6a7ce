/**
 * A mirror of a volume of the daemon, whose file system is written to all the time: each run is one moment, whole to e2fsck,
 * with the files that were there; what changed is taken from the tracker only where the target is certainly what it was.
 */
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { serve } from './mirror-daemon.js';
import { MIB, MirrorLab, poke, sha } from './mirror-lab.js';

t.setTimeout(240_000);

const PEERS = ['mkfs.ext4', 'e2fsck', 'mount', 'umount', 'losetup', 'dd'];

t.test('a file system that is in use', { skip: missing(PEERS, ['root', 'fuse', 'loop']) }, async t => {
  const lab = new MirrorLab(t);
  const origin = lab.file('origin.img', Buffer.alloc(0));
  truncateSync(origin, 24 * MIB);
  await run('mkfs.ext4', ['-q', '-F', origin]);
  const daemon = await serve(t, lab);
  const { mount } = daemon;
  await asofJson('volume', 'add', 'vol', origin, '--state', lab.state);
  const live = join(mount, 'volumes/vol/live');
  const root = lab.path('root');
  mkdirSync(root);
  t.teardown(async () => {
    await attempt('umount', [root]);
    await detachLoops(live);
  });
  await run('mount', ['-o', 'loop', live, root]);
  const target = lab.path('target.img');
  const loop = await lab.device('device', 32 * MIB);
  const mirror = (to: string, ...more: string[]) =>
    lab.mirror('vol', to, '--consistency', 'filesystem', ...more);
  const files = new Map<string, Buffer>();
  const put = (name: string, bytes: Buffer) => {
    writeFileSync(join(root, name), bytes);
    files.set(name, bytes);
  };
  const judge = async (image: string, what: string) => {
    t.equal((await attempt('e2fsck', ['-fn', image])).code, 0, `${what}: e2fsck`);
    const there = `${root}.copy`;
    mkdirSync(there, { recursive: true });
    t.teardown(() => attempt('umount', [there]));
    // A copy, so that nothing is written to the mirror.
    const copy = lab.path('copy.img');
    await run('dd', [`if=${image}`, `of=${copy}`, 'bs=1M', 'count=24', 'status=none']);
    await run('mount', ['-o', 'loop,ro', copy, there]);
    for (const [name, bytes] of files) t.equal(sha(readFileSync(join(there, name))), sha(bytes), name);
    await run('umount', [there]);
  };

  for (let i = 0; i < 4; i++) put(`file-${i}`, noise(i, MIB));
  const first = await mirror(target);
  t.equal(first.method, 'compared');
  await mirror(loop);
  await judge(target, 'the first run');
  await judge(loop, 'a device');

  put('file-1', noise(11, MIB));
  put('new', noise(12, 200_000));
  const second = await mirror(target, '--guard', '90%');
  t.equal(second.method, 'tracked', second.methodWhy);
  t.ok(second.compared < 6 * MIB, 'what the tracker did not name was not read');
  await judge(target, 'what was tracked');
  const device = await mirror(loop, '--guard', '90%');
  t.equal(device.method, 'compared', 'a device may be written to unseen');
  await judge(loop, 'a device, compared');

  // The target was written to past us: that is not overwritten by itself, and then nothing of it is believed.
  poke(target, 12 * MIB, noise(13, 1000));
  await lab.refused('TARGET_CHANGED', 2, /written to since/, 'vol', target);
  const forced = await mirror(target, '--force');
  t.equal(forced.method, 'compared', forced.methodWhy);
  await judge(target, 'over what others wrote');
  for (const own of [origin, live]) {
    const ended = await asof('mirror', 'vol', own, '--force', '--state', lab.state, '--json');
    t.match(ended.stderr, /TARGET_UNUSABLE.*part of what is read/);
  }
  t.same(await asofJson('snapshot', 'list', '--state', lab.state), [], 'no snapshot is left');

  await run('umount', [root]);
  await detachLoops(live);
  await mirror(target, '--consistency', 'crash');
  const idle = await mirror(target, '--consistency', 'crash');
  t.same([idle.written, idle.zeroed], [0, 0], 'nobody writes any more');
  t.equal(sha(readFileSync(target)), sha(readFileSync(origin)));

  // A write past the daemon is none that the tracker knows.
  await daemon.end();
  poke(origin, 20 * MIB, noise(14, 1000));
  await serve(t, lab);
  const foreign = await mirror(target, '--consistency', 'crash');
  t.equal(foreign.method, 'compared', foreign.methodWhy);
  t.equal(sha(readFileSync(target)), sha(readFileSync(origin)));
});
