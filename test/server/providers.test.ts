/** Providers over the daemon's commands: their order, what `show` prints of them, and how loudly `none` is told. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ASOF, asof, asofJson, eventually } from '../cli/asof.js';
import { emptyFile, MiB, scratch } from '../cow/lab.js';
import { attempt, missing } from '../peers.js';

t.setTimeout(120_000);

interface Made {
  readonly id: string;
  readonly moment: string;
  readonly group: string;
}

t.test('an order, none, and groups', { skip: missing(['umount'], ['root', 'fuse']) }, async t => {
  const folder = scratch(t);
  const [state, mount] = [join(folder, 'state'), join(folder, 'mount')];
  mkdirSync(mount);
  const child: ChildProcess = spawn(ASOF, ['serve', '--state', state, '--mount', mount, '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise(done => child.on('close', done));
  t.teardown(async () => {
    await attempt('umount', ['-l', mount]);
    child.kill('SIGKILL');
    await ended;
  });
  let said = '';
  child.stdout!.on('data', piece => {
    said += piece;
  });
  await eventually(() => said.endsWith('}\n') || child.exitCode !== null, 'the daemon is ready');
  for (const name of ['a', 'b']) {
    await asofJson('volume', 'add', name, emptyFile(join(folder, name), MiB), '--state', state);
  }
  const create = (...args: string[]) => asofJson<Made[]>('snapshot', 'create', ...args, '--state', state);

  const [first] = await create('a', '--provider', 'lvm,btrfs', '--provider', 'cow');
  const shown = await asof('snapshot', 'show', first!.id, '--state', state);
  t.match(
    shown.stdout,
    /providers\n {2}lvm: .* is a file.*\n {2}btrfs: .* is not on btrfs\n {2}cow: took it\n/,
  );

  const failed = await asof('snapshot', 'create', 'a', '--provider', 'lvm,btrfs', '--state', state);
  t.equal(failed.status, 2);
  t.match(failed.stderr, /PROVIDER_UNAVAILABLE|lvm: .* is a file.*; btrfs: .*not on btrfs/);
  t.equal((await asof('snapshot', 'create', 'a', '--provider', 'cow,', '--state', state)).status, 1);

  const unkept = await asof('snapshot', 'create', 'a', '--provider', 'none', '--state', state);
  t.equal(unkept.status, 0);
  t.match(unkept.stdout, /none .*none: nothing was preserved/);
  t.match(unkept.stderr, /asof: .*nothing was preserved: it stands for the live volume/);
  const wished = await asof(
    ...['snapshot', 'create', 'a', 'b', '--provider', 'none', '--state', state],
    ...['--writer', 'command:hold=true,release=true'],
  );
  for (const warning of [
    'what is read of the live volume later is of no one moment',
    'command held still for nothing that is kept',
    'the 2 volumes have no moment in common',
  ]) {
    t.match(
      wished.stderr,
      new RegExp(`^asof: none: .*${warning}$`, 'm'),
      'a wish that is not granted is told',
    );
    t.equal(wished.stderr.split(warning).length, 2, 'once');
  }
  const lost = await asof(
    ...['snapshot', 'create', 'a', '--consistency', 'crash', '--state', state],
    ...['--writer', 'command:hold=false,release=true'],
  );
  t.equal(lost.status, 0);
  t.match(lost.stderr, /^asof: command false: .*ended with 1$/m);
  const listed = await asofJson<(Made & { provider: string })[]>('snapshot', 'list', 'a', '--state', state);
  const { moment } = listed.find(({ provider, group, id }) => provider === 'none' && group === id)!;
  const there = join(mount, 'volumes/a', moment);
  await eventually(() => existsSync(there), 'it is shown');
  t.same(readdirSync(there), ['info.json'], 'without a disk');
  t.match(JSON.parse(readFileSync(join(there, 'info.json'), 'utf8')), {
    provider: 'none',
    consistency: 'none',
    state: 'none',
    why: /nothing was preserved/,
  });

  const made = await create('a', 'b');
  const alone = await asof('snapshot', 'delete', made[0]!.id, '--state', state);
  t.equal(alone.status, 2);
  t.match(
    alone.stderr,
    new RegExp(`one of 2 that are one moment.*\nhint: asof snapshot delete ${made[0]!.group}`),
  );
  await asofJson('volume', 'remove', 'b', '--force', '--state', state);
  t.match(
    (await asof('snapshot', 'list', '--state', state)).stdout,
    /its group is incomplete: 1 of 2 is gone/,
  );
  const incomplete = await asof('snapshot', 'show', made[0]!.id, '--state', state);
  t.match(incomplete.stdout, /group is +incomplete: 1 of 2 is gone/);
  const info = () => JSON.parse(readFileSync(join(mount, 'volumes/a', made[0]!.moment, 'info.json'), 'utf8'));
  t.equal((info() as { groupWhy: string }).groupWhy, '1 of 2 is gone');
  t.match((await asof('snapshot', 'delete', made[0]!.group, '--state', state)).stdout, /1 snapshot deleted/);
});
