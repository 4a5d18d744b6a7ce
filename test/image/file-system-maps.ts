/**
 * A full image by the file system's own map: what it uses comes back (its files, its checker), what it does not use is left out,
 * and the map of a file system that is not at rest is not believed.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { backup } from '../../src/histories.js';
import { ENDS, usedSpace } from '../../src/image/used-space.js';
import { attempt, detachLoops, missing } from '../peers.js';
import { OPTIONS } from './history-lab.js';
import { folder, noise, qemuImg } from './peer.js';

const GARBAGE = Buffer.from('what was deleted is nobody’s business; ');
const FILES = [3, 5000, 70_000, 900_000];

interface Kind {
  readonly name: string;
  readonly bytes: number;
  readonly make: readonly string[];
  readonly check: readonly string[];
  /** How to mount; undefined: files come and go by mtools. */
  readonly mount?: 'loop' | 'ntfs-3g' | 'mount.exfat-fuse';
}

export const LINUX: readonly Kind[] = [
  { name: 'extfs', bytes: 64, make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'], mount: 'loop' },
  { name: 'xfs', bytes: 320, make: ['mkfs.xfs', '-q'], check: ['xfs_repair', '-n', '-f'], mount: 'loop' },
  { name: 'btrfs', bytes: 160, make: ['mkfs.btrfs', '-q'], check: ['btrfs', 'check'], mount: 'loop' },
];

export const WINDOWS: readonly Kind[] = [
  { name: 'ntfs', bytes: 64, make: ['mkntfs', '-q', '-F'], check: ['ntfsfix', '-n'], mount: 'ntfs-3g' },
  { name: 'fat', bytes: 64, make: ['mkfs.fat'], check: ['fsck.fat', '-n'] },
  {
    name: 'exfat',
    bytes: 64,
    make: ['mkfs.exfat'],
    check: ['fsck.exfat', '-n'],
    mount: 'mount.exfat-fuse',
  },
];

export async function ok(t: Test, program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await attempt(program, args);
  if (code !== 0) t.fail(`${program} ${args.join(' ')}: ${stderr}${stdout}`);
  return stdout.toString().trim();
}

/** Works in the file system of `image`. */
async function mounted(
  t: Test,
  kind: Kind,
  image: string,
  work: (at: string) => Promise<void> | void,
  readOnly = false,
) {
  const at = `${image}.mnt`;
  mkdirSync(at, { recursive: true });
  const mode = readOnly ? ['-o', 'ro'] : [];
  if (kind.mount === 'ntfs-3g') {
    await ok(t, 'ntfs-3g', ...mode, image, at);
  } else {
    const device = await ok(t, 'losetup', '-f', '--show', ...(readOnly ? ['-r'] : []), image);
    await ok(t, kind.mount === 'loop' ? 'mount' : kind.mount!, ...mode, device, at);
  }
  try {
    await work(at);
  } finally {
    await attempt('umount', [at]);
    await detachLoops(image);
  }
}

/** A test of each. */
export function mapsOf(kinds: readonly Kind[]): void {
  t.setTimeout(300_000);
  for (const kind of kinds) testOf(kind);
}

function testOf(kind: Kind): void {
  const programs = ['qemu-img', kind.make[0]!, kind.check[0]!, `partclone.${kind.name}`];
  const skip = missing(
    [
      ...programs,
      ...(kind.mount ? ['mount', 'umount', 'losetup'] : []),
      ...(kind.mount === undefined ? ['mcopy', 'mdel', 'mtype'] : []),
      ...(kind.mount === undefined || kind.mount === 'loop' ? [] : [kind.mount]),
    ],
    kind.mount ? ['root', 'loop', 'fuse'] : [],
  );
  t.test(kind.name, { skip }, async t => {
    const home = folder(t);
    const image = join(home, 'disk.img');
    writeFileSync(image, '');
    truncateSync(image, kind.bytes * 2 ** 20);
    await ok(t, kind.make[0]!, ...kind.make.slice(1), image);
    const contents = FILES.map((length, i) => noise(i, length));
    if (kind.mount) {
      await mounted(t, kind, image, async at => {
        mkdirSync(join(at, 'folder'));
        const deleted = join(at, 'deleted');
        const fd = openSync(deleted, 'w');
        writeSync(fd, Buffer.alloc(8 * 2 ** 20, GARBAGE));
        closeSync(fd);
        for (const [i, bytes] of contents.entries()) writeFileSync(join(at, 'folder', `${i}`), bytes);
        await ok(t, 'sync', '-f', at);
        rmSync(deleted);
        await ok(t, 'sync', '-f', at);
        // As a crash leaves it.
        copyFileSync(image, `${image}.crashed`);
      });
    } else {
      const file = join(home, 'file');
      const put = async (name: string, bytes: Buffer) => {
        writeFileSync(file, bytes);
        await ok(t, 'mcopy', '-i', image, file, `::${name}`);
      };
      await put('deleted', Buffer.alloc(8 * 2 ** 20, GARBAGE));
      for (const [i, bytes] of contents.entries()) await put(`${i}`, bytes);
      await ok(t, 'mdel', '-i', image, '::deleted');
    }
    t.ok(readFileSync(image).includes(GARBAGE), 'the source has what was deleted');
    const before = createHash('sha256').update(readFileSync(image)).digest('hex');
    const history = join(home, 'history');
    const { point } = await backup(image, history, OPTIONS);
    t.equal(point.manifest.allocation, 'map', String(point.manifest.allocationWhy));
    t.equal(point.manifest.sha256, null, 'no digest that would not be that of the source');
    t.equal(
      createHash('sha256').update(readFileSync(image)).digest('hex'),
      before,
      'the source is untouched',
    );
    const restored = join(home, 'restored.img');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', join(history, point.manifest.image.file), restored);
    // What stands at the very ends is kept, whoever it belongs to.
    const inner = readFileSync(restored).subarray(ENDS, -ENDS);
    t.notOk(inner.includes(GARBAGE), 'what is not used is left out');
    const [check, ...args] = kind.check;
    const checked = await attempt(check!, [...args, restored]);
    t.equal(checked.code, 0, `${checked.stderr}${checked.stdout}`);
    const checkFiles = async (copy: string) => {
      if (!kind.mount) {
        for (const [i, bytes] of contents.entries()) {
          const { stdout } = await attempt('mtype', ['-i', copy, `::${i}`]);
          t.ok(stdout.equals(bytes), `file ${i}`);
        }
        return;
      }
      await mounted(
        t,
        kind,
        copy,
        at => {
          for (const [i, bytes] of contents.entries()) {
            t.ok(readFileSync(join(at, 'folder', `${i}`)).equals(bytes), `file ${i}`);
          }
        },
        true,
      );
    };
    await checkFiles(restored);
    const next = await backup(image, history, OPTIONS);
    t.equal(next.point.manifest.root, point.manifest.root, 'the same again');
    if (kind.name === 'ntfs') {
      // What was in use at the time of a shadow copy, and nobody has overwritten since, it does not have itself.
      const header = Buffer.alloc(512);
      Buffer.from('6b87083876c1484eb7ae04046e6cc752', 'hex').copy(header);
      header.writeUInt32LE(1, 16);
      header.writeUInt32LE(1, 20);
      header.writeBigUInt64LE(32768n, 48);
      const before = readFileSync(image).subarray(0x1e00, 0x2000);
      for (const [bytes, why] of [
        [header, /whether it has shadow copies cannot be told/],
        [before, /by partclone.ntfs/],
      ] as const) {
        const fd = openSync(image, 'r+');
        writeSync(fd, bytes, 0, 512, 0x1e00);
        closeSync(fd);
        t.match(await usedSpace(image, kind.bytes * 2 ** 20), { why });
      }
      // A log as Windows leaves it when it crashes, where mkntfs has left an empty one.
      const log = readFileSync(image).indexOf(Buffer.alloc(8192, 0xff));
      const page = Buffer.alloc(4096);
      page.write('RSTR');
      page.writeUInt16LE(0x30, 0x18);
      for (const [flags, client, why] of [
        [0, 0, /log is to be replayed/],
        [2, 0, /by partclone.ntfs/],
        [0, 0xffff, /by partclone.ntfs/],
      ] as const) {
        page.writeUInt16LE(flags, 0x30 + 14);
        page.writeUInt16LE(client, 0x30 + 12);
        const fd = openSync(image, 'r+');
        writeSync(fd, page, 0, page.length, Math.ceil(log / 4096) * 4096);
        closeSync(fd);
        t.match(await usedSpace(image, kind.bytes * 2 ** 20), { why });
      }
    }
    const all = await backup(image, `${history}.all`, OPTIONS, { allSectors: true });
    t.equal(all.point.manifest.allocation, 'holes');
    t.equal(all.point.manifest.unused, null);
    if (kind.name === 'fat') {
      // Linux marks it so while it is mounted.
      const fd = openSync(image, 'r+');
      writeSync(fd, Buffer.from([1]), 0, 1, 0x25);
      closeSync(fd);
      t.match(await usedSpace(image, kind.bytes * 2 ** 20), { unused: undefined, why: /marked as in use/ });
    }
    if (kind.mount !== 'loop') return;
    const crashed = await usedSpace(`${image}.crashed`, kind.bytes * 2 ** 20);
    if (kind.name !== 'btrfs') t.equal(crashed.unused, undefined, crashed.why);
    if (kind.name === 'btrfs') {
      const fd = openSync(image, 'r+');
      writeSync(fd, Buffer.alloc(1, 1), 0, 1, 0x10062);
      closeSync(fd);
      t.match(await usedSpace(image, kind.bytes * 2 ** 20), {
        unused: undefined,
        why: /log is to be replayed/,
      });
    }
  });
}
