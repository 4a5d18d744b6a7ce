/**
 * Files that stand in the journal alone: a file system that lost its machine has them when it is mounted again, and so do
 * restore and diff; the point is unchanged. With --no-replay they are as the disk has them.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { MIB, NEEDS, scratch } from './file-lab.js';

t.setTimeout(240_000);

interface Restored {
  readonly replay: { readonly replayed: boolean; readonly why: string };
}

interface Compared {
  readonly path: string;
  readonly kind: string;
}

const MODEL = noise(7, 300_000);

/** What is synced before the power goes stands in the journal, and nowhere else where nothing was checkpointed. */
async function crashed(t: Test, folder: string, make: readonly string[]): Promise<string> {
  const image = join(folder, 'fs.img');
  const root = join(folder, 'mnt');
  mkdirSync(root);
  writeFileSync(image, '');
  truncateSync(image, (make[0] === 'mkfs.xfs' ? 320 : 64) * MIB);
  await run(make[0]!, [...make.slice(1), image]);
  t.teardown(async () => {
    await attempt('umount', [root]);
    await detachLoops(image);
  });
  await run('mount', ['-o', 'loop', image, root]);
  writeFileSync(join(root, 'old'), 'there before');
  await run('umount', [root]);
  await run('mount', ['-o', 'loop', image, root]);
  writeFileSync(join(root, 'young'), MODEL);
  await run('sync', [join(root, 'young'), root]);
  const copy = join(folder, 'crashed.img');
  await run('cp', ['--sparse=always', image, copy]);
  await run('umount', [root]);
  return copy;
}

async function works(t: Test, make: readonly string[]): Promise<void> {
  const folder = scratch(t);
  const image = await crashed(t, folder, make);
  const history = join(folder, 'history');
  await asofJson('backup', image, '--to', history);
  const digest = () => createHash('sha256').update(readFileSync(image)).digest('hex');
  const before = digest();

  for (const [n, point] of [history, image].entries()) {
    const into = join(folder, `into-${n}`);
    mkdirSync(into);
    const done = await asofJson<Restored>('restore', point, '--files', '/', '--into', into);
    t.equal(done.replay.replayed, true, done.replay.why);
    t.ok(readFileSync(join(into, 'young')).equals(MODEL), `the file of the journal, out of ${point}`);
    t.equal(readFileSync(join(into, 'old'), 'utf8'), 'there before');
    const raw = join(folder, `raw-${n}`);
    mkdirSync(raw);
    const text = await asof('restore', point, '--files', '/', '--into', raw, '--dry-run', '--no-replay');
    t.match(text.stdout.toString(), /the journal was not replayed \(--no-replay\)/);
    const without = await asofJson<Restored>('restore', point, '--files', '/', '--into', raw, '--no-replay');
    t.equal(without.replay.replayed, false);
    t.notOk(existsSync(join(raw, 'young')), 'the journal alone has it');
  }
  t.equal(digest(), before, 'the evidence is untouched');
  t.equal((await asof('verify', history, '--deep')).status, 0, 'and so is the history');

  // At rest, as the kernel leaves it after a replay of its own.
  const whole = join(folder, 'fs.img');
  const told = await asofJson<Compared[]>('diff', history, whole, '--files');
  t.same(told, [], 'the crashed one, replayed, has what the other has');
  const raw = await asofJson<Compared[]>('diff', history, whole, '--files', '--no-replay');
  t.match(raw, [{ path: '/young', kind: 'only-right' }]);
  const into = join(folder, 'rest');
  mkdirSync(into);
  const rest = await asofJson<Restored>('restore', whole, '--files', 'old', '--into', into);
  t.equal(rest.replay.replayed, false, 'nothing to replay');
  t.match(rest.replay.why, /nothing to replay/);
  t.same(
    readdirSync('/run/asof/files').filter(name => name.startsWith(`${process.pid}-`)),
    [],
  );
}

t.test('ext4', { skip: missing(['mkfs.ext4', 'losetup', 'mount', 'cp', 'sync'], NEEDS) }, t =>
  works(t, ['mkfs.ext4', '-q', '-F']),
);
t.test('XFS', { skip: missing(['mkfs.xfs', 'losetup', 'mount', 'cp', 'sync'], NEEDS) }, t =>
  works(t, ['mkfs.xfs', '-q', '-f']),
);
