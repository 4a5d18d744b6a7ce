/** Paging files and a hibernated system in the root folder of NTFS: left out, and nothing else; what is compressed is kept. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { backup } from '../../src/histories.js';
import { attempt, missing, run } from '../peers.js';
import { OPTIONS } from './history-lab.js';
import { folder, noise } from './peer.js';
import { blank, bytesLeft, MIB, named, SECRET, without } from './swap-lab.js';

t.setTimeout(300_000);

t.test(
  'files of Windows',
  { skip: missing(['qemu-img', 'mkntfs', 'ntfs-3g', 'umount', 'setfattr'], ['root', 'fuse']) },
  async t => {
    const home = folder(t);
    const image = blank(home, 'disk.img', 96);
    await run('mkntfs', ['-q', '-F', image]);
    const at = join(home, 'mnt');
    mkdirSync(at);
    const mounted = async (path: string, work: () => Promise<void> | void, how = 'compression') => {
      await run('ntfs-3g', ['-o', how, path, at]);
      try {
        await work();
      } finally {
        await run('umount', [at]);
      }
    };
    const page = Buffer.alloc(6 * MIB, SECRET);
    await mounted(image, async () => {
      // Enough names for an index that is no longer in its record.
      for (let i = 0; i < 300; i++)
        writeFileSync(join(at, `a file with a name of some length ${i}`), noise(i, 2000));
      // In pieces: every second of what fills the gaps goes.
      writeFileSync(join(at, 'pagefile.sys'), page.subarray(0, MIB));
      writeFileSync(join(at, 'between'), noise(1, MIB));
      writeFileSync(join(at, 'pagefile.sys'), page.subarray(MIB), { flag: 'a' });
      writeFileSync(join(at, 'HIBERFIL.SYS'), Buffer.concat([Buffer.from('hibr'), page.subarray(0, MIB)]));
      await run('setfattr', ['-h', '-v', '0x20080000', '-n', 'system.ntfs_attrib', at]);
      writeFileSync(join(at, 'swapfile.sys'), page.subarray(0, MIB));
      mkdirSync(join(at, 'sub'));
      writeFileSync(join(at, 'sub', 'pagefile.sys'), page.subarray(0, MIB));
    });
    const { manifest, restored, after } = await without(t, image);
    t.same(
      named(manifest)
        .map(({ name }) => name)
        .sort(),
      ['/hiberfil.sys', '/pagefile.sys'],
    );
    t.match(manifest.excludedNot!.join(), /\/swapfile.sys is kept: it is compressed/);
    t.ok(bytesLeft(manifest) >= 7 * MIB && bytesLeft(manifest) < 7 * MIB + 65536);
    t.equal((await attempt('ntfsfix', ['-n', restored])).code, 0);
    t.ok(after.includes(SECRET), 'in a file elsewhere it is kept');
    await mounted(
      restored,
      () => {
        t.ok(readFileSync(join(at, 'pagefile.sys')).equals(Buffer.alloc(6 * MIB)));
        t.ok(readFileSync(join(at, 'HIBERFIL.SYS')).equals(Buffer.alloc(MIB + 4)));
        t.ok(readFileSync(join(at, 'swapfile.sys')).equals(page.subarray(0, MIB)));
        t.ok(readFileSync(join(at, 'sub', 'pagefile.sys')).equals(page.subarray(0, MIB)));
        t.ok(readFileSync(join(at, 'between')).equals(noise(1, MIB)));
        for (let i = 0; i < 300; i += 7) {
          t.ok(readFileSync(join(at, `a file with a name of some length ${i}`)).equals(noise(i, 2000)));
        }
      },
      'ro',
    );
    const asleep = await backup(image, `${image}.asleep`, OPTIONS, {});
    t.equal(asleep.point.manifest.allocation, 'holes');
    t.match(asleep.point.manifest.allocationWhy, /hibernated/, 'its memory may know of more than its map');
  },
);
