/**
 * A volume on a loop device over another volume's live file, in one mount: each request of the upper one waits for one of
 * the lower. A session with a fixed number of workers stood still once all of them waited so; then nothing but an abort
 * of the mount helped, which is what the end of this test does to it after a minute.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import type { Entry, ShownDisk } from '../../src/mount/tree.js';
import { cannotMount, has, run, text, Workshop } from './fixture.js';
import { makeVolume, WHEN } from './volume.js';

t.setTimeout(180_000);

const MiB = 2 ** 20;
const WRITERS = 24; // three times the workers that a session begins with
const why =
  cannotMount(nativeFuse.unavailable()) ||
  (process.geteuid?.() === 0 ? '' : 'needs root, for loop devices') ||
  (has('losetup') ? '' : 'losetup is not installed');
if (why) {
  t.plan(0, why);
  process.exit(0);
}

const WRITE = `
import os, sys, mmap
path, base, stamp = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDWR | os.O_DSYNC)
for block in range(4):
    os.pwrite(fd, bytes([stamp]) * 3000, base + block * 4096 + 100)
same = all(os.pread(fd, 3000, base + block * 4096 + 100) == bytes([stamp]) * 3000 for block in range(4))
sys.exit(0 if same else 1)
`;

const live = (name: string, disk: ShownDisk): Entry => ({
  kind: 'disk',
  name,
  modified: WHEN,
  disk,
  writable: true,
});

for (const direct of ['off', 'on']) {
  await t.test(`loop device with direct input and output ${direct}`, async t => {
    const workshop = new Workshop();
    const before = randomBytes(16 * MiB);
    const lower = await makeVolume(workshop, before);
    const dir = workshop.directory();
    const tree = (...entries: Entry[]) => ({ kind: 'directory', name: '', modified: WHEN, entries }) as const;
    const mounted = await nativeFuse.mount(tree(live('lower', lower.live)), {
      mountPoint: dir,
      source: 'nested',
      allowOther: false,
    });
    const attached = await run('losetup', '-f', '--show', `--direct-io=${direct}`, join(dir, 'lower'));
    t.equal(attached.status, 0, attached.stderr);
    const device = text(attached);
    const fd = openSync(device, 'r+');
    const upper = await makeVolume(workshop, before.length, { origin: fd });
    closeSync(fd);
    const stuck = setTimeout(() => void run('umount', '-f', dir), 60_000);
    t.teardown(async () => {
      clearTimeout(stuck);
      await upper.close();
      await run('losetup', '-d', device);
      await mounted.unmount({ lazy: true });
      await mounted.ended;
      await lower.close();
      workshop.close();
    });
    await mounted.update(tree(live('lower', lower.live), live('upper', upper.live)));
    await upper.snapshot();
    await lower.snapshot();

    const path = join(dir, 'upper');
    const share = before.length / 32;
    const writers = Array.from({ length: WRITERS }, (_, i) =>
      run('python3', '-c', WRITE, path, String(i * share), String(i + 1)),
    );
    for (const { status, stderr } of await Promise.all(writers)) t.equal(status, 0, stderr);

    const wanted = Buffer.from(before);
    for (let writer = 0; writer < WRITERS; writer++) {
      for (let block = 0; block < 4; block++) {
        const at = writer * share + block * 4096 + 100;
        wanted.fill(writer + 1, at, at + 3000);
      }
    }
    for (const name of ['upper', 'lower']) {
      const answer = await run('cat', join(dir, name));
      t.equal(answer.stdout.equals(wanted), true, `${name} holds what was written`);
    }
  });
}
