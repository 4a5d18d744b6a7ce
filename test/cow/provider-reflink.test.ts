/** The provider `reflink` on both file systems that can, and its refusal on one that cannot. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { reflink } from '../../src/cow/provider-reflink.js';
import { attempt, missing, run } from '../peers.js';
import { codeOf, emptyFile, MiB, openVolumes, scratch } from './lab.js';
import { conformance } from './provider-conformance.js';

t.setTimeout(120_000);

const FILE_SYSTEMS = [
  ['mkfs.xfs', ['-q', '-f', '-m', 'reflink=1']],
  ['mkfs.btrfs', ['-q', '-f']],
] as const;

for (const [make, options] of FILE_SYSTEMS) {
  t.test(make, { skip: missing([make, 'mount', 'umount'], ['root', 'loop']) }, async t => {
    const folder = scratch(t);
    const image = emptyFile(join(folder, 'fs.img'), 512 * MiB);
    await run(make, [...options, image]);
    const there = join(folder, 'there');
    mkdirSync(there);
    await run('mount', ['-o', 'loop', image, there]);
    // Not lazily: a file that is still open would be in its way.
    t.teardown(() => run('umount', [there]));
    conformance(t, reflink, there);
  });
}

t.test(
  'elsewhere it is refused, with the reason',
  { skip: missing(['mke2fs', 'mount'], ['root', 'loop']) },
  async t => {
    const folder = scratch(t);
    const image = emptyFile(join(folder, 'fs.img'), 32 * MiB);
    await run('mke2fs', ['-q', '-F', '-t', 'ext4', image]);
    const there = join(folder, 'there');
    mkdirSync(there);
    await run('mount', ['-o', 'loop', image, there]);
    t.teardown(() => attempt('umount', [there]));
    const { volumes, close } = await openVolumes(t, join(there, 'state'));
    writeFileSync(join(there, 'origin'), Buffer.alloc(MiB, 1));
    await volumes.add({ name: 'volume', origin: join(there, 'origin') });
    t.equal(await codeOf(() => volumes.snapshot(['volume'], 'reflink')), 'PROVIDER_UNAVAILABLE');
    t.equal(await codeOf(() => volumes.snapshot(['volume'], 'nobody')), 'USAGE');
    const [made] = await volumes.snapshot(['volume']);
    t.equal(made?.provider, 'cow', 'where nobody says which, the first that can is taken');
    await close();
  },
);
