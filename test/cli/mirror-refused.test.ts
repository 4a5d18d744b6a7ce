/**
 * What a mirror does not write over, each with its code, and that nothing of the target was touched: targets that hold
 * something else, are in use, too small, others than they were, or written to since.
 */
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { asof } from './asof.js';
import { MIB, MirrorLab, poke, sha } from './mirror-lab.js';
import { run as mirrorOnce, stateOf } from './mirror-victim.js';

t.setTimeout(240_000);

t.test('files', async t => {
  const lab = new MirrorLab(t);
  const source = lab.file('source.img', noise(1, 3 * MIB));
  const { refused } = bound(lab);
  const full = lab.file('full', noise(2, MIB));
  await refused('TARGET_OCCUPIED', 2, /holds data/, source, full);
  await refused('TARGET_UNUSABLE', 2, /part of what/, source, source, '--force');
  await refused('NOT_FOUND', 2, /no device/, source, '/dev/asof-no-such-disk');
  await refused('USAGE', 1, /share/, source, lab.path('new'), '--guard', '101%');
  await refused('MIRROR_UNKNOWN', 2, /nothing is known/, '--status', full);
  await lab.mirror(source, full, '--force');
  t.equal(sha(readFileSync(full)), sha(readFileSync(source)), 'unless it may go');

  const target = lab.path('target');
  await lab.mirror(source, target);
  const other = lab.file('other.img', noise(3, 3 * MIB));
  await refused('TARGET_OCCUPIED', 2, /the mirror of .*source\.img/, other, target);

  poke(target, MIB + 5, Buffer.from('x'));
  t.equal((await lab.status(target)).status, 3);
  await refused('TARGET_CHANGED', 2, /written to since.*modification time/, source, target);
  const healed = await lab.mirror(source, target, '--force');
  t.equal(healed.differing, 65536);
  t.equal(sha(readFileSync(target)), sha(readFileSync(source)));

  // Another file at that path, with the same bytes and times.
  copyFileSync(target, lab.path('copy'));
  renameSync(lab.path('copy'), target);
  await refused('TARGET_CHANGED', 2, /not the target that it was: it was inode/, source, target);
  t.equal((await lab.status(target)).state, 'altered');
  rmSync(target);
  await refused('TARGET_CHANGED', 2, /not there/, source, target);
  t.equal((await lab.mirror(source, target, '--force')).first, true);
  // Under another name it is the same file.
  renameSync(target, lab.path('renamed'));
  t.equal((await lab.mirror(source, lab.path('renamed'))).written, 0);
});

t.test('a target that was given up while it was updated', { skip: missing(['mkfs.ext4']) }, async t => {
  const lab = new MirrorLab(t);
  const source = lab.file('source.img', noise(1, 4 * MIB));
  const target = lab.path('target');
  await mirrorOnce(source, target, lab.state, () => {});
  for (const last of ['updating', 'noticed', 'head'] as const) {
    poke(source, 3 * MIB, noise(last.length, 100));
    const stopped = mirrorOnce(source, target, lab.state, step => {
      if (step === last) throw new Error('it ends here');
    });
    await t.rejects(stopped, /it ends here/);
    t.equal(stateOf(target, lab.state), 'updating');
    const left = readFileSync(target);
    const refuses = async (what: string) => {
      const before = sha(readFileSync(target));
      const again = mirrorOnce(source, target, lab.state, () => {});
      await t.rejects(again, { code: 'TARGET_CHANGED', message: /something else than the last run/ }, what);
      t.equal(sha(readFileSync(target)), before, 'and nothing was written');
    };
    await run('mkfs.ext4', ['-q', '-F', target]);
    await refuses('another use');
    writeFileSync(target, left);
    // Its times are others now, which is nothing where the notice stands or the bytes are those that were to be.
    if (last === 'updating') await refuses('it was whole, and was written to');
    await mirrorOnce(source, target, lab.state, () => {}, { force: last === 'updating' });
    t.equal(sha(readFileSync(target)), sha(readFileSync(source)));
  }
});

t.test('devices', { skip: missing(['losetup', 'mkfs.ext4', 'mount'], ['root', 'loop']) }, async t => {
  const lab = new MirrorLab(t);
  const { refused } = bound(lab);
  const source = lab.file('source.img', Buffer.alloc(0));
  truncateSync(source, 8 * MIB);
  await run('mkfs.ext4', ['-q', '-F', source]);
  const small = await lab.device('small', 8 * MIB - 4096);
  await refused('TARGET_TOO_SMALL', 2, /4096 more/, source, small, '--force');
  const loop = await lab.device('target', 8 * MIB);
  await lab.mirror(source, loop);
  const root = lab.path('mnt');
  mkdirSync(root);
  t.teardown(() => attempt('umount', [root]));
  await run('mount', [loop, root]);
  await refused('TARGET_BUSY', 2, new RegExp(`mounted on ${root}`), source, loop, '--force');
  t.equal((await lab.status(loop)).status, 3, 'a mount has written to it');
  writeFileSync(join(root, 'newer'), 'than the source');
  await run('umount', [root]);
  await refused('TARGET_CHANGED', 2, /written to since/, source, loop);
  await lab.mirror(source, loop, '--force');
  t.equal(sha(readFileSync(loop)), sha(readFileSync(source)));

  // Bytes that no count of the loop device tells of, since they came past it.
  await run('losetup', ['-d', loop]);
  poke(lab.path('target'), 4 * MIB, noise(1, 100));
  const again = (await run('losetup', ['-f', '--show', lab.path('target')])).trim();
  t.equal((await lab.status(again)).state, 'altered');
  await refused('TARGET_CHANGED', 2, /are not those that were written/, source, again);

  // Another disk under the name of the last run; the kernel gives the first number that is free.
  const swapped = lab.file('swapped', Buffer.alloc(8 * MIB));
  await run('losetup', ['-d', again]);
  await detachLoops(lab.path('target'));
  t.teardown(() => detachLoops(swapped));
  const third = (await run('losetup', ['-f', '--show', swapped])).trim();
  if (third === loop) await refused('TARGET_CHANGED', 2, /loop device on .*swapped/, source, third);
});

t.test(
  'no room, and a target that fails',
  { skip: missing(['mount', 'losetup'], ['root', 'loop']) },
  async t => {
    const lab = new MirrorLab(t);
    const { refused } = bound(lab);
    const source = lab.file('source.img', noise(1, 4 * MIB));
    const root = lab.path('small');
    mkdirSync(root);
    t.teardown(() => attempt('umount', [root]));
    await run('mount', ['-t', 'tmpfs', '-o', 'size=5m', 'tmpfs', root]);
    const target = join(root, 'target');
    writeFileSync(join(root, 'ballast'), Buffer.alloc(3 * MIB));
    await refused('TARGET_TOO_SMALL', 2, /more/, source, target);
    // There seems to be room, since the target has blocks already; they lie behind the end of the source.
    rmSync(join(root, 'ballast'));
    writeFileSync(target, '');
    truncateSync(target, 8 * MIB);
    poke(target, 4 * MIB, noise(2, 4 * MIB));
    const ended = await asof('mirror', source, target, '--state', lab.state, '--force', '--json');
    t.equal(ended.status, 2);
    t.match(ended.stderr, /MIRROR_FAILED.*ENOSPC.*marked as being updated/);
    const { status, state } = await lab.status(target);
    t.same([status, state], [3, 'updating']);
    t.match(readFileSync(target).toString('latin1', 0, 80), /is being updated, and is not whole/);
    await run('mount', ['-o', 'remount,size=20m', root]);
    await lab.mirror(source, target);
    t.equal(
      sha(readFileSync(target).subarray(0, 4 * MIB)),
      sha(readFileSync(source)),
      'the next run ends well',
    );
    rmSync(target);
    await run('mount', ['-o', 'remount,size=2m', root]);

    // A device whose writes are lost: the file behind it finds no room.
    const behind = join(root, 'behind');
    writeFileSync(behind, '');
    truncateSync(behind, 12 * MIB);
    t.teardown(() => detachLoops(behind));
    const loop = (await run('losetup', ['-f', '--show', behind])).trim();
    const failed = await asof('mirror', source, loop, '--state', lab.state, '--json');
    t.equal(failed.status, 2);
    t.match(failed.stderr, /MIRROR_FAILED.*EIO.*marked as being updated/);
    t.equal((await lab.status(loop)).status, 3);
  },
);

/** Unbound methods lose their object. */
function bound(lab: MirrorLab) {
  return { refused: lab.refused.bind(lab) };
}
