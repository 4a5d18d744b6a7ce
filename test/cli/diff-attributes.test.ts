/**
 * Of files more than bytes differs: extended attributes, ACLs, owner, mode, where a link leads, which device a node is. Each is
 * marked with what it is, and what a file system may do as it likes (holes) is no difference.
 */
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { missing, run } from '../peers.js';
import { asofJson } from './asof.js';
import { MIB, NEEDS, PEERS, scratch, within } from './file-lab.js';

t.setTimeout(240_000);

interface Told {
  readonly path: string;
  readonly kind: string;
  readonly why: readonly string[];
}

t.test('ext4', { skip: missing([...PEERS, 'mkfs.ext4', 'mknod', 'mkfifo', 'fallocate'], NEEDS) }, async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const image = join(folder, 'fs.img');
  writeFileSync(image, '');
  truncateSync(image, 64 * MIB);
  await run('mkfs.ext4', ['-q', '-F', image]);
  const names = ['acl', 'attribute', 'changed', 'lost', 'mode', 'owner', 'same', 'sparse'];
  const root = `${image}.mnt`;
  await within(t, image, 'ext4', async () => {
    for (const name of names) writeFileSync(join(root, name), Buffer.alloc(100_000));
    for (const name of ['changed', 'lost', 'same']) {
      await run('setfattr', ['-n', 'user.note', '-v', 'as it was', join(root, name)]);
    }
    mkdirSync(join(root, 'folder'));
    symlinkSync('here', join(root, 'link'));
    await run('mknod', [join(root, 'node'), 'b', '7', '200']);
    await run('mkfifo', [join(root, 'pipe')]);
  });
  await run('umount', [root]);
  const { id } = await asofJson<Manifest>('backup', image, '--to', history);
  await run('mount', ['-o', 'loop', image, root]);
  const at = (name: string) => join(root, name);
  await run('setfacl', ['-m', 'u:4321:r', at('acl')]);
  await run('setfacl', ['-d', '-m', 'g:77:rx', at('folder')]);
  await run('setfattr', ['-n', 'user.new', '-v', 'x', at('attribute')]);
  await run('setfattr', ['-n', 'user.note', '-v', 'as it is', at('changed')]);
  await run('setfattr', ['-x', 'user.note', at('lost')]);
  await run('chmod', ['4711', at('mode')]);
  await run('chown', ['7:8', at('owner')]);
  const time = join(folder, 'time');
  writeFileSync(time, '');
  await run('touch', ['-r', at('sparse'), time]);
  await run('fallocate', ['--dig-holes', at('sparse')]);
  await run('touch', ['-r', time, at('sparse')]);
  for (const name of ['link', 'node', 'pipe']) rmSync(at(name));
  symlinkSync('there', at('link'));
  await run('mknod', [at('node'), 'b', '7', '201']);
  await run('mknod', [at('pipe'), 'c', '1', '3']);
  await run('umount', [root]);

  const told = await asofJson<Told[]>('diff', `${history}@${id}`, image, '--files');
  t.same(
    told.map(({ path, why }) => [path, why.filter(one => one !== 'time').join(' ')]),
    [
      ['/acl', 'attributes'],
      ['/attribute', 'attributes'],
      ['/changed', 'attributes'],
      ['/folder', 'attributes'],
      ['/link', 'target'],
      ['/lost', 'attributes'],
      ['/mode', 'mode'],
      ['/node', 'device'],
      ['/owner', 'owner'],
      ['/pipe', 'type'],
    ],
  );
});
