/**
 * File systems with all that belongs to files, for tests of what brings files back, and what programs of others say of them.
 */
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, type Facility, run } from '../peers.js';

export const MIB = 2 ** 20;
export const PEERS = ['losetup', 'mount', 'setfattr', 'getfattr', 'setfacl', 'getfacl', 'cp', 'fsfreeze'];
export const NEEDS: readonly Facility[] = ['root', 'loop', 'fuse'];

export function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-restore-files-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Mounts `image` read-write until `work` is done. */
export async function within(
  t: Test,
  image: string,
  type: string,
  work: (root: string) => Promise<void>,
): Promise<void> {
  const root = `${image}.mnt`;
  mkdirSync(root);
  t.teardown(async () => {
    await attempt('umount', [root]);
    await detachLoops(image);
  });
  await run('mount', ['-o', 'loop', '-t', type, image, root]);
  await work(root);
  await run('sync', ['-f', root]);
}

export async function fill(root: string, posix: boolean): Promise<void> {
  mkdirSync(join(root, 'home/alice/deep'), { recursive: true });
  writeFileSync(join(root, 'home/alice/letter'), noise(1, 100_000));
  writeFileSync(join(root, 'home/alice/deep/a b\nc'), 'x');
  const fd = openSync(join(root, 'home/alice/sparse'), 'w');
  writeSync(fd, 'tail', 30 * MIB);
  closeSync(fd);
  writeFileSync(join(root, 'etc'), 'a file');
  await run('touch', ['-d', '2001-02-03 04:05:06.789', join(root, 'home/alice/letter')]);
  if (!posix) return;
  symlinkSync('/etc', join(root, 'home/out'));
  symlinkSync('letter', join(root, 'home/alice/link'));
  await run('ln', [join(root, 'home/alice/letter'), join(root, 'home/alice/twin')]);
  await run('chown', ['1234:5678', join(root, 'home/alice/letter')]);
  await run('chmod', ['4751', join(root, 'home/alice/letter')]);
  await run('setfattr', ['-n', 'user.note', '-v', 'kept', join(root, 'home/alice/letter')]);
  await run('setfacl', ['-m', 'u:4321:rwx,m:rwx', join(root, 'home/alice/deep/a b\nc')]);
  await run('setfacl', ['-d', '-m', 'g:77:rx', join(root, 'home/alice/deep')]);
  await run('touch', ['-d', '2002-02-03 04:05:06', join(root, 'home/alice/deep')]);
}

/** What programs of others say of a tree, with names relative to it. */
export async function told(path: string, posix: boolean): Promise<string> {
  const script = [
    `find . -printf '%p %y %m %U %G %T@ %l\\n' | sort`,
    // Of a folder these are what its file system makes of it.
    `find . -type f -printf '%p %s %n\\n' | sort`,
    `find . -type f -exec sha256sum {} + | sort`,
    ...(posix
      ? [
          `find . -print0 | sort -z | xargs -0 getfattr -h -d -m '^user'`,
          'find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -p',
        ]
      : []),
  ].join('; ');
  return run('sh', ['-c', script], { cwd: path });
}
