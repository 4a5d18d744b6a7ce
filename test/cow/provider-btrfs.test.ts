/** The provider `btrfs` on a subvolume of its own, and what it refuses. */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { btrfs } from '../../src/cow/provider-btrfs.js';
import { missing, run } from '../peers.js';
import { codeOf, emptyFile, MiB, openVolumes, scratch } from './lab.js';
import { conformance } from './provider-conformance.js';

t.setTimeout(120_000);

const skip = missing(['mkfs.btrfs', 'btrfs', 'mount', 'umount'], ['root', 'loop']);

async function mounted(t: Test): Promise<string> {
  const folder = scratch(t);
  const image = emptyFile(join(folder, 'fs.img'), 512 * MiB);
  await run('mkfs.btrfs', ['-q', '-f', image]);
  const there = join(folder, 'there');
  mkdirSync(there);
  await run('mount', ['-o', 'loop', image, there]);
  // Not lazily: a file that is still open would be in its way.
  t.teardown(() => run('umount', [there]));
  return there;
}

async function subvolume(path: string): Promise<string> {
  await run('btrfs', ['subvolume', 'create', path]);
  return path;
}

t.test('as every provider', { skip }, async t => {
  const there = await mounted(t);
  let count = 0;
  conformance(t, btrfs, there, async (path, bytes) => {
    const own = await subvolume(join(dirname(path), `subvolume-${++count}`));
    const folder = join(own, 'deeper');
    mkdirSync(folder);
    writeFileSync(join(folder, 'origin'), bytes);
    return join(folder, 'origin');
  });
});

t.test('where it lies, and that it holds no other', { skip }, async t => {
  const there = await mounted(t);
  const own = await subvolume(join(there, 'own'));
  const { volumes, close } = await openVolumes(t, join(there, 'state'));
  writeFileSync(join(own, 'origin'), Buffer.alloc(MiB, 1));
  const volume = await volumes.add({ name: 'volume', origin: join(own, 'origin') });
  const ids: string[] = [];
  for (let i = 0; i < 3; i++) ids.push((await volumes.snapshot(['volume'], 'btrfs'))[0]!.id);
  const folder = join(own, '.asof-snapshots', volume.definition.id);
  const names = readdirSync(folder);
  t.same(new Set(names.map(name => name.slice(-36))), new Set(ids));
  for (const name of names) {
    const inside = readdirSync(join(folder, name, '.asof-snapshots', volume.definition.id));
    for (const stub of inside) {
      t.same(
        readdirSync(join(folder, name, '.asof-snapshots', volume.definition.id, stub)),
        [],
        'an empty folder',
      );
    }
    t.equal((await run('btrfs', ['property', 'get', join(folder, name), 'ro'])).trim(), 'ro=true');
  }
  // What is left of a daemon that died while it took one.
  await run('btrfs', ['subvolume', 'snapshot', '-r', own, join(folder, `new-${ids[0]}`)]);
  await close();
  const again = await openVolumes(t, join(there, 'state'));
  t.same(new Set(readdirSync(folder)), new Set(names), 'it is gone');
  for (const id of ids) await again.volumes.deleteSnapshot(id);
  t.same(readdirSync(own), ['origin'], 'nothing is left');
  await again.close();
});

t.test('what is refused, and why', { skip }, async t => {
  const there = await mounted(t);
  const { volumes, close } = await openVolumes(t, join(there, 'state'));
  const elsewhere = join(scratch(t), 'origin');
  for (const origin of [join(there, 'origin'), elsewhere]) {
    writeFileSync(origin, Buffer.alloc(MiB, 1));
    await volumes.add({ name: origin === elsewhere ? 'elsewhere' : 'top', origin });
  }
  await t.rejects(volumes.snapshot(['top'], 'btrfs'), {
    code: 'PROVIDER_UNAVAILABLE',
    message: /no subvolume of its own/,
  });
  await t.rejects(volumes.snapshot(['elsewhere'], 'btrfs'), { message: /not on btrfs/ });
  const [made] = await volumes.snapshot(['top'], ['btrfs', 'reflink']);
  t.equal(made!.provider, 'reflink', 'the next is tried');
  t.match(volumes.show(made!.id)[0]!.record!.providers, [
    { name: 'btrfs', why: /no subvolume/ },
    { name: 'reflink', why: '' },
  ]);
  t.equal(await codeOf(() => volumes.snapshot(['top', 'elsewhere'], ['btrfs'])), 'PROVIDER_UNAVAILABLE');
  await close();
});
