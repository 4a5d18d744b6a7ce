/**
 * Files and folders out of a point: with owner, mode, times, attributes, ACLs and holes, from ext4, XFS and NTFS, also
 * where the journal was not replayed.
 * Oracles: find(1), getfattr(1), getfacl(1), the model's bytes.
 */
import { mkdirSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { fill, MIB, NEEDS, PEERS, scratch, told, within } from './file-lab.js';

t.setTimeout(240_000);

async function works(t: Test, type: string, make: readonly string[], posix: boolean): Promise<void> {
  const folder = scratch(t);
  const image = join(folder, 'fs.img');
  const history = join(folder, 'history');
  writeFileSync(image, '');
  truncateSync(image, (type === 'xfs' ? 320 : 64) * MIB);
  await run(make[0]!, [...make.slice(1), image]);
  let before = '';
  await within(t, image, type, async root => {
    await fill(root, posix);
    before = await told(join(root, 'home/alice'), posix);
    // While it is mounted: as a snapshot finds it, with a journal that a mount would replay.
    const copy = join(folder, 'copy.img');
    if (posix) await run('fsfreeze', ['--freeze', root]);
    else await run('sync', ['-f', root]);
    try {
      await run('cp', ['--sparse=always', image, copy]);
    } finally {
      if (posix) await run('fsfreeze', ['--unfreeze', root]);
    }
    await asofJson('backup', copy, '--to', history);
  });
  await run('umount', [`${image}.mnt`]);
  const into = join(folder, 'into');
  mkdirSync(into);
  const dry = await asofJson<{ files: { to: string }[] }>(
    'restore',
    history,
    '--files',
    'home/alice',
    '--into',
    into,
    '--dry-run',
  );
  t.same(
    dry.files.map(({ to }) => to),
    [join(into, 'alice')],
  );
  t.same(readdirSync(into), [], 'a dry run writes nothing');
  const done = await asof('restore', history, '--files', '/home/alice', './etc', '--into', into);
  t.equal(done.status, 0, done.stderr);
  t.same(readdirSync(into).sort(), ['alice', 'etc']);
  t.equal(await told(join(into, 'alice'), posix), before, 'all that is known of each file');
  t.ok(statSync(join(into, 'alice/sparse')).blocks * 512 < MIB, 'holes are kept');
  const again = await asof('restore', history, '--files', 'etc', '--into', into, '--json');
  t.equal(again.status, 2);
  t.match(again.stderr, /TARGET_OCCUPIED/);
}

t.test('ext4', { skip: missing([...PEERS, 'mkfs.ext4'], NEEDS) }, t =>
  works(t, 'ext4', ['mkfs.ext4', '-q', '-F'], true),
);
t.test('XFS', { skip: missing([...PEERS, 'mkfs.xfs'], NEEDS) }, t =>
  works(t, 'xfs', ['mkfs.xfs', '-q', '-f'], true),
);
t.test('NTFS', { skip: missing([...PEERS, 'mkntfs', 'ntfs-3g'], NEEDS) }, t =>
  works(t, 'ntfs-3g', ['mkntfs', '-q', '-F', '-Q'], false),
);
