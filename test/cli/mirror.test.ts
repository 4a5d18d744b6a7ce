/**
 * A mirror equals its source after each run, in a file and on a device, of files, images and points of a history; a run
 * writes what differs, and nothing where nothing does. Oracles: the bytes themselves, the kernel's counts of writes and
 * blocks, sgdisk, e2fsck.
 */
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import t from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { noise, qemuImg } from '../image/peer.js';
import { attempt, missing, run } from '../peers.js';
import { asofJson } from './asof.js';
import { MIB, MirrorLab, poke, sha, writesTo } from './mirror-lab.js';

t.setTimeout(240_000);

const CLUSTER = 65536;

t.test('a file: what differs is written, nothing where nothing does', async t => {
  const lab = new MirrorLab(t);
  // It ends within a cluster; it has holes.
  const bytes = Buffer.alloc(8 * MIB + 1536);
  noise(1, 700_000).copy(bytes, 100_000);
  noise(2, 3 * MIB).copy(bytes, 3 * MIB + 77);
  noise(3, 1000).copy(bytes, bytes.length - 1000);
  const source = lab.file('source.img', bytes);
  const target = lab.path('target.img');
  const equal = (what: string) => t.equal(sha(readFileSync(target)), sha(bytes), what);
  const first = await lab.mirror(source, target);
  equal('the first run');
  t.equal(first.first, true);
  t.ok(statSync(target).blocks * 512 < 4.5 * MIB, 'sparse');

  const stateOf = () => {
    const { mtimeNs, ctimeNs, ino } = statSync(target, { bigint: true });
    return `${mtimeNs} ${ctimeNs} ${ino}`;
  };
  const before = stateOf();
  const second = await lab.mirror(source, target);
  t.same([second.written, second.zeroed, second.differing], [0, 0, 0], 'an unchanged source');
  t.equal(stateOf(), before, 'the target was not touched');
  t.equal((await lab.status(target)).status, 0);

  // In the middle of a cluster, over the edge of two, in a hole, in the last bytes; and zeros where there was something.
  const change = (offset: number, piece: Uint8Array) => {
    poke(source, offset, piece);
    bytes.set(piece, offset);
  };
  change(40 * CLUSTER + 10, noise(4, 20));
  change(60 * CLUSTER - 10, noise(5, 20));
  change(100 * CLUSTER, noise(6, 5000));
  change(bytes.length - 7, noise(7, 7));
  change(70 * CLUSTER, Buffer.alloc(4 * CLUSTER));
  const third = await lab.mirror(source, target);
  equal('the third run');
  t.equal(third.differing, 8 * CLUSTER + 1536);
  t.equal(third.zeroed, 4 * CLUSTER, 'zeros are holes again');
  const head = 2 * CLUSTER;
  t.equal(third.written, 4 * CLUSTER + 1536 + 2 * head, 'and its beginning, twice');
  t.equal(third.verified, 8 * CLUSTER + 1536 + head);

  // A larger source, and one that is smaller again.
  truncateSync(source, 10 * MIB);
  poke(source, 10 * MIB - 100, noise(8, 100));
  await lab.mirror(source, target);
  t.equal(sha(readFileSync(target)), sha(readFileSync(source)), 'the source has grown');
  truncateSync(source, 6 * MIB);
  await lab.mirror(source, target, '--accept-changes');
  t.equal(sha(readFileSync(target).subarray(0, 6 * MIB)), sha(readFileSync(source)), 'the source has shrunk');
  t.equal((await lab.mirror(source, target)).written, 0);
});

t.test('of an image, and of points of a history', async t => {
  const lab = new MirrorLab(t);
  const bytes = Buffer.alloc(4 * MIB + 512);
  noise(1, 2 * MIB).copy(bytes, 500_000);
  const source = lab.file('disk.img', bytes);
  const image = lab.path('disk.qcow2');
  qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', source, image);
  await lab.mirror(image, lab.path('of-image'));
  t.equal(sha(readFileSync(lab.path('of-image'))), sha(bytes));

  const history = lab.path('history');
  const one = await asofJson<Manifest>('backup', source, '--to', history);
  noise(2, 300_000).copy(bytes, 3 * MIB);
  bytes.fill(0, 600_000, 900_000);
  writeFileSync(source, bytes);
  const two = await asofJson<Manifest>('backup', source, '--to', history);
  const target = lab.path('target');
  await lab.mirror(`${history}@${one.id}`, target);
  const back = await lab.mirror(history, target);
  t.ok(back.differing > 0 && back.differing < MIB, 'only what differs');
  t.equal(sha(readFileSync(target)), sha(bytes));
  t.equal((await lab.mirror(`${history}@${two.id}`, target)).written, 0);
});

t.test('devices', { skip: missing(['losetup'], ['root', 'loop']) }, async t => {
  const lab = new MirrorLab(t);
  const bytes = Buffer.alloc(6 * MIB + 2048);
  noise(1, 2 * MIB).copy(bytes, MIB);
  const source = lab.file('source.img', bytes);
  const loop = await lab.device('target', 8 * MIB, 0xa5);
  const equal = (what: string) => {
    const there = readFileSync(loop);
    t.equal(sha(there.subarray(0, bytes.length)), sha(bytes), what);
    t.ok(
      there.subarray(bytes.length).every(byte => byte === 0xa5),
      'what lies behind the end of the source is left alone',
    );
  };
  await lab.mirror(source, loop);
  equal('over what was there');
  const before = writesTo(loop);
  const second = await lab.mirror(source, loop);
  t.same([second.written, second.zeroed], [0, 0]);
  t.equal(writesTo(loop), before, 'the kernel has counted no write');
  noise(2, 100_000).copy(bytes, 3 * MIB);
  bytes.fill(0, MIB, MIB + 5 * CLUSTER);
  writeFileSync(source, bytes);
  await lab.mirror(source, loop);
  equal('what differed');
  t.equal((await lab.status(loop)).state, 'whole');
});

t.test(
  'a GPT, and file systems in it, onto a larger disk',
  { skip: missing(['sfdisk', 'sgdisk', 'mkfs.ext4', 'debugfs', 'e2fsck', 'losetup'], ['root', 'loop']) },
  async t => {
    const lab = new MirrorLab(t);
    const source = lab.file('source.img', Buffer.alloc(0));
    truncateSync(source, 40 * MIB);
    await run('sfdisk', ['--quiet', source], { input: 'label: gpt\nstart=2048,size=16384\nsize=32768\n' });
    const start = 2048 * 512;
    const fs = lab.file('fs', Buffer.alloc(0));
    truncateSync(fs, 16384 * 512);
    await run('mkfs.ext4', ['-q', '-F', fs]);
    await run('debugfs', ['-w', '-R', `write ${lab.file('letter', noise(1, 100_000))} letter`, fs]);
    poke(source, start, readFileSync(fs));
    const loop = await lab.device('device', 64 * MIB);
    const larger = lab.file('larger.img', Buffer.alloc(0));
    truncateSync(larger, 48 * MIB + 512);
    // Larger by so little that its table lies over the end of the source.
    const hardly = lab.file('hardly.img', Buffer.alloc(0));
    truncateSync(hardly, 40 * MIB + 512);
    for (const [i, target] of [loop, larger, hardly].entries()) {
      const answer = await lab.mirror(source, target);
      t.equal(answer.gptMoved, true);
      t.equal((await lab.mirror(source, target)).written, 0, 'the moved table is no difference');
      // The content of a file changes, and the disk with it.
      poke(source, start + 5 * MIB, noise(10 + i, 70_000));
      const next = await lab.mirror(source, target);
      t.ok(next.differing > 0 && next.differing <= 4 * CLUSTER);
      const there = readFileSync(target);
      t.equal(
        sha(there.subarray(start, start + 16384 * 512)),
        sha(readFileSync(source).subarray(start, start + 16384 * 512)),
      );
      t.match(await run('sfdisk', ['--verify', target]), /No errors detected/);
      t.match((await attempt('sgdisk', ['--verify', target])).stdout.toString(), /No problems found/);
      poke(lab.file('part', Buffer.alloc(0)), 0, there.subarray(start, start + 16384 * 512));
      t.equal((await attempt('e2fsck', ['-fn', lab.path('part')])).code, 0);
    }
    const exact = lab.path('exact.img');
    await lab.mirror(source, exact);
    t.equal(sha(readFileSync(exact)), sha(readFileSync(source)), 'of the same size it is the disk');
  },
);

t.test('dry run', async t => {
  const lab = new MirrorLab(t);
  const source = lab.file('source.img', noise(1, 3 * MIB));
  const target = lab.path('target.img');
  t.equal((await lab.mirror(source, target, '--dry-run')).differing, 3 * MIB);
  t.equal(statSync(target, { throwIfNoEntry: false }), undefined);
  await lab.mirror(source, target);
  poke(source, 2 * MIB, noise(2, 10));
  const before = sha(readFileSync(target));
  const dry = await lab.mirror(source, target, '--dry-run');
  t.same([dry.differing, dry.written, dry.verified], [CLUSTER, 0, null]);
  t.equal(sha(readFileSync(target)), before);
  t.equal((await lab.status(target)).state, 'whole');
});
