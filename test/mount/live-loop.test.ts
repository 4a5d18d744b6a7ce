/**
 * A file system lives on a loop device over the live file: made, filled, trimmed and checked, by every way in which a
 * loop device does its input and output; it is whole on the volume below as well.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { cannotMount, has, run, text, Workshop } from './fixture.js';
import { makeVolume, WHEN } from './volume.js';

const MiB = 2 ** 20;
const needed = ['losetup', 'mkfs.ext4', 'fstrim', 'blkdiscard', 'e2fsck', 'tar'].filter(name => !has(name));
const why =
  cannotMount(nativeFuse.unavailable()) ||
  (process.geteuid?.() === 0 ? '' : 'needs root, for loop devices') ||
  (needed.length > 0 ? `${needed.join(', ')} not installed` : '');
if (why) {
  t.plan(0, why);
  process.exit(0);
}

const workshop = new Workshop();
const made = await makeVolume(workshop, 160 * MiB);
const dir = workshop.directory();
const mounted = await nativeFuse.mount(
  {
    kind: 'directory',
    name: '',
    modified: WHEN,
    entries: [{ kind: 'disk', name: 'live', modified: WHEN, disk: made.live, writable: true }],
  },
  { mountPoint: dir, source: 'live', allowOther: false },
);
const path = join(dir, 'live');
const devices = new Set<string>();
const files = workshop.directory();
t.teardown(async () => {
  await run('umount', '-l', files);
  for (const device of devices) await run('losetup', '-d', device);
  await mounted.unmount({ lazy: true });
  await mounted.ended;
  await made.close();
  workshop.close();
});

/** Runs a program that must succeed; what it wrote. */
async function must(program: string, ...args: string[]): Promise<string> {
  const answer = await run(program, ...args);
  if (answer.status !== 0) {
    throw new Error(`${program} ${args.join(' ')}: ${(answer.stderr + text(answer)).slice(0, 1000)}`);
  }
  return text(answer);
}

const blocks = async (of: string) => Number(await must('stat', '-c', '%b', of));

// Some files, as an archive and as a digest of names and contents.
const source = join(workshop.folder, 'source');
for (let folder = 0; folder < 8; folder++) {
  mkdirSync(join(source, `${folder}`), { recursive: true });
  writeFileSync(join(source, `${folder}`, 'large'), randomBytes(6 * MiB + folder));
  for (let i = 0; i < 60; i++) writeFileSync(join(source, `${folder}`, `${i}`), randomBytes(i * 97));
}
const archive = join(workshop.folder, 'archive.tar');
await must('tar', '-cf', archive, '-C', workshop.folder, 'source');
const digest = (of: string) =>
  must('sh', '-c', `cd ${of} && find source -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum`);
const wanted = await digest(workshop.folder);
rmSync(source, { recursive: true });

for (const direct of ['off', 'on']) {
  await t.test(`direct input and output ${direct}`, async t => {
    const device = await must('losetup', '--find', '--show', `--direct-io=${direct}`, path);
    devices.add(device);
    t.equal(
      await must('losetup', '--noheadings', '--output', 'DIO,RO', device).then(said =>
        said.replace(/\s+/g, ' '),
      ),
      `${direct === 'on' ? 1 : 0} 0`,
    );
    await must('blkdiscard', device);
    const empty = await blocks(made.origin);
    t.equal(empty, 0, 'all is given back');
    await must('mkfs.ext4', '-q', '-b', '4096', '-E', 'lazy_itable_init=0,lazy_journal_init=0', device);
    await must('mount', device, files);
    const flushes = made.volume.activity().flushes;
    await must('tar', '-xf', archive, '-C', files);
    await must('sync', '-f', files);
    t.ok(made.volume.activity().flushes > flushes, 'the flushes of the file system arrive');
    await must('umount', files);

    // Read back from the device, not from the page cache.
    await must('mount', device, files);
    t.equal(await digest(files), wanted);
    const full = await blocks(made.origin);
    await must('rm', '-r', join(files, 'source'));
    await must('sync', '-f', files);
    await must('fstrim', files);
    t.ok((await blocks(made.origin)) < full - (40 * MiB) / 512, 'fstrim gives space back');
    await must('tar', '-xf', archive, '-C', files);
    await must('umount', files);
    // Once plainly, once by the zeroes that need not give space back.
    await must('fallocate', '-z', '-o', '0', '-l', '1024', device);
    t.equal(await must('sh', '-c', `head -c 1024 ${device} | tr -d '\\0' | wc -c`), '0');
    await must('losetup', '-d', device);
    devices.delete(device);

    for (const of of [path, made.origin]) {
      const check = await run('e2fsck', '-fn', of);
      t.equal(check.status, 0, text(check));
    }
    t.equal((await run('cmp', path, made.origin)).status, 0);
  });
}

await t.test('fio verifies what it wrote', { skip: has('fio') ? false : 'fio is not installed' }, async t => {
  const jobs = [
    ['--ioengine=libaio', '--iodepth=8', '--direct=1', '--bsrange=512-256k', '--blockalign=512'],
    ['--ioengine=psync', '--direct=0', '--bs=4k', '--fsync=16'],
    ['--ioengine=libaio', '--iodepth=4', '--direct=1', '--bs=1m'],
  ];
  for (const job of jobs) {
    const answer = await run(
      'fio',
      ...['--name=verify', `--filename=${path}`, '--size=24m', '--offset=32m', '--rw=randrw'],
      ...['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--do_verify=1', '--randseed=7'],
      ...['--allow_file_create=0', '--fallocate=none', ...job],
    );
    t.equal(answer.status, 0, `${job.join(' ')}\n${answer.stderr}${answer.status ? text(answer) : ''}`);
  }
});
