/** File systems that were not unmounted are attached as they are: no journal is replayed, and no byte is written. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { DRIVE_NEEDS, DRIVE_PEERS, digest, fileSystem, letter, scratch, type Told } from './drive-lab.js';

t.setTimeout(240_000);

const skip = missing(DRIVE_PEERS, DRIVE_NEEDS);

t.test(
  'a file system without partitions, its journal not replayed',
  { skip: skip || missing(['fsfreeze', 'cp']) },
  async t => {
    const folder = scratch(t);
    for (const kind of ['ext4', 'xfs', 'btrfs'] as const) {
      const path = await fileSystem(t, folder, kind);
      const root = `${path}.mnt`;
      await run('mount', ['-o', 'loop', path, root]);
      await run('sh', ['-c', `echo late > ${root}/late; sync -f ${root}`]);
      const copy = join(folder, `${kind}.dirty`);
      // As a crash leaves it.
      await run('cp', ['--sparse=always', path, copy]);
      await run('umount', [root]);
      const before = digest(copy);
      const dir = join(folder, `${kind}.dir`);
      mkdirSync(dir);
      t.teardown(() => asof('detach', '--lazy', dir));
      const told = await asofJson<Told>('attach', copy, dir);
      t.equal(told.fileSystems[0]?.number, null);
      t.ok(letter(dir), kind);
      t.equal((await asof('detach', dir)).status, 0);
      t.equal(digest(copy), before, `${kind} is what it was`);
    }
  },
);
