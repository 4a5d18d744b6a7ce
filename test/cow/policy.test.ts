/** Whose order of providers counts where a request names none, and that one that is named is the one that is tried. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { lvmSizeOf, orderOf, type SnapshotPolicies } from '../../src/cow/policy.js';
import { StateFolder } from '../../src/cow/state-folder.js';
import { Volumes } from '../../src/cow/volumes.js';
import { LOG, MiB, scratch } from './lab.js';

const POLICIES: SnapshotPolicies = {
  defaults: { providers: ['reflink', 'cow'], lvmSize: 1 },
  volumes: new Map([
    ['a', { providers: ['btrfs', 'cow'], lvmSize: 2 }],
    ['b', {}],
  ]),
  groups: new Map([
    ['all', { providers: ['none'] }],
    ['plain', {}],
  ]),
};

t.test('whose order counts', async t => {
  t.same(orderOf(POLICIES, ['a'], ['a']), ['btrfs', 'cow'], 'the volume’s');
  t.same(orderOf(POLICIES, ['b'], ['b']), ['reflink', 'cow'], 'the defaults’');
  t.same(orderOf(POLICIES, ['@all'], ['a', 'b']), ['none'], 'the group’s');
  t.throws(() => orderOf(POLICIES, ['@plain'], ['a', 'b']), {
    code: 'USAGE',
    message: /different providers for a, b/,
  });
  t.throws(
    () => orderOf(POLICIES, ['@all', 'b'], ['a', 'b']),
    { code: 'USAGE' },
    'it is not the group alone',
  );
  t.same(orderOf({ ...POLICIES, defaults: {} }, ['b'], ['b']), undefined);
  t.same([lvmSizeOf(POLICIES, 'a'), lvmSizeOf(POLICIES, 'b')], [2, 1]);
});

t.test('a request’s counts more, and all is recorded', async t => {
  const folder = scratch(t);
  const state = StateFolder.open(join(folder, 'state'));
  const groups = new Map([['all', ['a', 'b']]]);
  const volumes = await Volumes.open({ state, log: LOG, invalid: () => {}, policies: POLICIES, groups });
  t.teardown(async () => {
    await volumes.close();
    state.close();
  });
  for (const name of ['a', 'b']) {
    writeFileSync(join(folder, name), Buffer.alloc(MiB, 1));
    await volumes.add({ name, origin: join(folder, name), durability: 'process' });
  }
  const tried = async (...args: Parameters<Volumes['snapshot']>) => {
    const made = await volumes.snapshot(...args);
    return volumes.show(made[0]!.id)[0]!.record!.providers.map(({ name, why }) => `${name}: ${why}`);
  };
  t.match(await tried(['a']), [/btrfs: .+/, 'cow: ']);
  t.match(await tried(['@all']), ['none: ']);
  t.match(await tried(['@all'], ['lvm', 'reflink', 'cow']), [
    /lvm: .*several volumes/,
    /reflink: .*several/,
    'cow: ',
  ]);
  t.match(await tried(['@all'], undefined, { separately: true }), ['none: ']);
  t.equal((await volumes.snapshot(['a', 'b'], undefined, { separately: true })).length, 2, 'each by its own');
  await t.rejects(volumes.snapshot(['a'], ['cow', 'cow']), { code: 'USAGE', message: /each once/ });
  await t.rejects(volumes.snapshot(['a'], []), { code: 'USAGE' });
  await t.rejects(volumes.snapshot(['a'], ['cow', 'tape']), { code: 'USAGE', message: /no provider "tape"/ });
  await t.rejects(volumes.snapshot(['@all'], ['lvm', 'btrfs']), {
    code: 'PROVIDER_UNAVAILABLE',
    message: /lvm: .*several volumes.*btrfs: .*several/,
  });
});
