/**
 * The provider `none` preserves nothing: it is taken where it is named alone, says so everywhere, and has no disk that could
 * be taken for one of a moment.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { treeOf } from '../../src/volumes.js';
import { changesOf, codeOf, MiB, openVolumes, scratch } from './lab.js';

t.test('none', async t => {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const { volumes, close } = await openVolumes(t, state);
  for (const name of ['a', 'b']) {
    writeFileSync(join(folder, name), Buffer.alloc(MiB, 1));
    await volumes.add({ name, origin: join(folder, name) });
  }
  const made = await volumes.snapshot(['a', 'b'], 'none');
  const [one] = made;
  t.match(one, {
    provider: 'none',
    state: 'none',
    consistency: 'none',
    why: /nothing was preserved/,
    groupWhy: '',
  });
  t.match(volumes.show(one!.id)[0]!.record, {
    consistency: 'none',
    why: /preserves nothing/,
    providers: [{ name: 'none', why: '' }],
    warnings: [/no one moment/, /no moment in common/],
  });
  t.equal(
    await codeOf(() => volumes.get('a').disk(one!.id)),
    'SNAPSHOT_FAILED',
    'no bytes of now as those of then',
  );
  t.equal(await codeOf(() => volumes.addOverlay(one!.id, undefined)), 'SNAPSHOT_FAILED');
  const found = JSON.stringify(treeOf(volumes), (_, value) =>
    typeof value === 'object' && value?.kind === 'disk' ? value.name : value,
  );
  t.notMatch(found, /"disk"/, 'nor in the mount');
  const { exact, why } = await changesOf(volumes, 'a', { since: one!.id });
  t.match({ exact, why }, { exact: false, why: /none/ });
  t.match(
    await volumes
      .snapshot(['a'], ['lvm', 'none'])
      .then(([info]) => volumes.show(info!.id)[0]!.record!.providers),
    [
      { name: 'lvm', why: /is a file/ },
      { name: 'none', why: '' },
    ],
  );
  const wanted = volumes.snapshot(['a'], ['none'], { consistency: 'crash' });
  t.equal(await codeOf(() => wanted), 'PROVIDER_UNAVAILABLE', 'it grants no consistency at all');
  t.equal((await volumes.snapshot(['a']))[0]!.provider, 'cow', 'and is never taken by itself');
  const before = volumes.snapshots();
  await close();
  const again = await openVolumes(t, state);
  t.same(again.volumes.snapshots(), before);
  await again.volumes.deleteSnapshot(one!.group);
  t.equal(again.volumes.snapshots().length, before.length - 2);
  await again.close();
});
