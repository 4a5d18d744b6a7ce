/**
 * A point as a drive: its partitions are devices and its file systems folders, with the bytes of the image, which stays what it
 * was; and what was attached goes by each of its names.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { asof, asofJson, mounted } from './asof.js';
import {
  DRIVE_NEEDS,
  DRIVE_PEERS,
  digest,
  diskOf,
  folderOf,
  letter,
  list,
  remains,
  scratch,
  type Told,
} from './drive-lab.js';

t.setTimeout(240_000);

const skip = missing(DRIVE_PEERS, DRIVE_NEEDS);

t.test('attached and detached', { skip }, async t => {
  const folder = scratch(t);
  const image = await diskOf(t, folder, 'gpt', ['ext4', 'xfs', 'btrfs', 'ntfs', 'swap']);
  const dir = join(folder, 'dir');
  mkdirSync(dir);
  const before = digest(image);
  t.teardown(async () => {
    await asof('detach', '--lazy', image);
  });

  await t.test('every file system, on a folder of its own', async t => {
    const told = await asofJson<Told>('attach', image, dir);
    t.same(told.troubles, []);
    t.same(
      told.fileSystems.map(({ number, type, mountPoint }) => [number, type, mountPoint]),
      ['ext4', 'xfs', 'btrfs', 'ntfs'].map((type, i) => [i + 1, type, join(dir, `p${i + 1}`)]),
    );
    for (const { mountPoint, type } of told.fileSystems) t.ok(letter(mountPoint), type);
    t.equal(told.partitionDevices.length, 5);
    for (const { number, device } of told.partitionDevices) {
      t.equal(await run('blockdev', ['--getro', device]), '1\n', `${device} is read-only`);
      t.equal((await asof('umount', join(dir, `p${number}`))).status, 2, 'it is no mount of asof');
    }
    const twin = join(told.disk, '..', 'p2');
    t.equal(
      await run('cmp', [told.partitionDevices[1]!.device, twin]),
      '',
      'the device has the bytes of the file',
    );
    const [listed] = (await list()).filter(({ asked }) => asked === image);
    t.match(listed, { device: told.device, dir, users: [] });
    const own = folderOf(told);
    t.equal((await asof('detach', dir)).status, 0);
    t.same(remains(own, dir), []);
    t.notOk(existsSync(own));
    t.same(readdirSync(dir), [], 'the folders that were made are gone');
  });

  await t.test('a device alone, and one file system on the folder itself', async t => {
    const device = await asofJson<Told>('attach', image);
    t.equal(device.fileSystems.length, 0);
    t.ok(device.device);
    const told = await asofJson<Told>('attach', image, dir, '--partition', '1');
    t.ok(letter(dir));
    t.not(told.device, device.device);
    t.equal(
      (await asof('detach', told.partitionDevices[0]!.device)).status,
      0,
      'by the device of a partition',
    );
    t.notOk(mounted(dir));
    t.equal((await asof('detach', device.device!)).status, 0);
    t.same(remains(folderOf(device), folderOf(told)), []);
  });

  await t.test('the same btrfs and XFS twice', async t => {
    const other = join(folder, 'other');
    mkdirSync(other);
    await asofJson<Told>('attach', image, dir);
    const twice = await asofJson<Told>('attach', image, other);
    const types = twice.fileSystems.map(({ type }) => type);
    t.ok(types.includes('xfs'));
    // Before 6.7 the kernel cannot, and we say so.
    if (!types.includes('btrfs'))
      t.match(twice.troubles.join(), /has the UUID .* of the btrfs that is mounted/);
    for (const { mountPoint } of twice.fileSystems) t.ok(letter(mountPoint));
    t.equal((await asof('detach', image)).status, 0, 'by the point, both');
    t.same(remains(dir, other), []);
  });

  await t.test('what is refused', async t => {
    const refused = async (code: string, ...words: string[]) => {
      const { status, stderr } = await asof('attach', ...words, '--json');
      t.ok(status !== 0);
      t.equal(JSON.parse(stderr).error.code, code, words.join(' '));
    };
    await refused('MOUNT_POINT', image, join(folder, 'missing'));
    await refused('MOUNT_POINT', image, folder);
    await refused('PARTITION_UNKNOWN', image, dir, '--partition', '9');
    await refused('FILE_SYSTEM_UNKNOWN', image, dir, '--partition', '5');
    await refused('NOT_FOUND', join(folder, 'nothing'), dir);
    const { status, stderr } = await asof('detach', dir, '--json');
    t.equal(status, 2);
    t.equal(JSON.parse(stderr).error.code, 'NOT_ATTACHED');
    t.same(readdirSync(dir), []);
    t.same(
      (await list()).filter(({ asked }) => asked.startsWith(folder)),
      [],
      'nothing is left of what failed',
    );
    t.same(remains(dir), []);
  });

  t.equal(digest(image), before, 'not one byte of the image has changed');
});

t.test(
  'an MBR with a logical partition, in a qcow2 image',
  { skip: skip || missing(['qemu-img']) },
  async t => {
    const folder = scratch(t);
    const raw = await diskOf(t, folder, 'dos', ['ext4', 'ntfs', 'swap', 'ext4']);
    const image = join(folder, 'disk.qcow2');
    await run('qemu-img', ['convert', '-O', 'qcow2', raw, image]);
    const before = digest(image);
    const dir = join(folder, 'dir');
    mkdirSync(dir);
    t.teardown(() => asof('detach', '--lazy', image));
    const told = await asofJson<Told>('attach', image, dir);
    t.same(
      told.fileSystems.map(({ number, type }) => [number, type]),
      [
        [1, 'ext4'],
        [2, 'ntfs'],
        [5, 'ext4'],
      ],
    );
    for (const { mountPoint } of told.fileSystems) t.ok(letter(mountPoint));
    t.equal((await asof('detach', image)).status, 0);
    t.equal(digest(image), before);
  },
);
