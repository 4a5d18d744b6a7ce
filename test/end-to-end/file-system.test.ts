/**
 * A file system within an image mounts from the mount through a loop device, is clean, and has its files.
 */
import { createHash } from 'node:crypto';
import { cp, mkdir, readdir, readFile, readlink, symlink, truncate, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { attempt, missing, run } from '../peers.js';
import { pattern } from './images.js';
import { mount, scratch } from './mounted.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const skip = missing(
  ['mke2fs', 'e2fsck', 'losetup', 'mount', 'umount', 'qemu-img'],
  ['fuse', 'root', 'loop'],
);

for (const options of [[], ['-c'], ['-c', '-o', 'compression_type=zstd']]) {
  t.test(`ext4 in qcow2 ${options.join(' ') || 'plain'}`, { skip }, async t => {
    const folder = await scratch(t);
    const source = await tree(folder);
    const raw = join(folder, 'fs.raw');
    await run('mke2fs', ['-q', '-t', 'ext4', '-d', source, raw, '96M']);
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...options, raw, join(folder, 'fs.qcow2')]);

    const mounted = await mount(t, join(folder, 'fs.qcow2'));
    const loop = await attach(t, join(mounted, 'disk'));
    const check = await attempt('e2fsck', ['-f', '-n', loop]);
    t.equal(check.code, 0, `e2fsck finds nothing: ${check.stdout}${check.stderr}`);

    const there = join(folder, 'there');
    await mkdir(there);
    await run('mount', ['-t', 'ext4', '-o', 'ro,noload', loop, there]);
    t.teardown(() => attempt('umount', [there]));
    t.same(await digests(there), await digests(source), 'every file has its bytes');
    await run('umount', [there]);
  });
}

/** Files of the project, and one each of large, sparse, empty and linked. */
async function tree(folder: string): Promise<string> {
  const source = join(folder, 'source');
  await mkdir(source);
  for (const part of ['src', 'docs', 'native', 'scripts']) {
    await cp(join(ROOT, part), join(source, part), { recursive: true });
  }
  await writeFile(join(source, 'large'), pattern(11, 9_000_001));
  await writeFile(join(source, 'sparse'), 'begin');
  await truncate(join(source, 'sparse'), 5_000_000);
  await writeFile(join(source, 'empty'), '');
  await symlink('large', join(source, 'link'));
  return source;
}

/** A read-only loop device on `file` until `t` is over. */
async function attach(t: Test, file: string): Promise<string> {
  const loop = (await run('losetup', ['-f', '--show', '-r', file])).trim();
  t.teardown(() => run('losetup', ['-d', loop]));
  return loop;
}

/** Path → SHA-256, or the target of a link. lost+found belongs to the file system. */
async function digests(root: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isSymbolicLink()) found[relative(root, path)] = await readlink(path);
    if (entry.isFile()) {
      found[relative(root, path)] = createHash('sha256')
        .update(await readFile(path))
        .digest('hex');
    }
  }
  return found;
}
