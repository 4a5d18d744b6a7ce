/**
 * File systems are found, frozen and thawed; never one that is somebody else's; and whoever dies, none stays frozen.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type FileSystem, fileSystemsOn } from '../../src/cow/file-systems.js';
import { Freezer, refuseOwn } from '../../src/cow/freeze.js';
import { eventually, running } from '../cli/asof.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { ext4On, mountOn, NEEDED, stuck, writeTo } from './frozen.js';
import { codeOf, emptyFile, loop, MiB, scratch } from './lab.js';

t.setTimeout(120_000);
const skip = missing([...NEEDED, 'unshare'], ['root', 'loop']);
const never = new AbortController().signal;

async function freezer(t: Test, fileSystems: readonly FileSystem[], holdMs = 60_000): Promise<Freezer> {
  const started = await Freezer.start(fileSystems, holdMs);
  t.teardown(() => started.close());
  return started;
}

const thawed = async (there: string) => (await attempt('fsfreeze', ['-u', there])).code !== 0;

t.test('those on a file, on its partitions, and inside of them', { skip }, async t => {
  const folder = scratch(t);
  const plain = await ext4On(t, folder, 'plain');
  t.match(fileSystemsOn(plain.file), [{ mountPoint: plain.there, type: 'ext4', level: 1 }]);
  t.same(fileSystemsOn(join(folder, 'other')), []);

  const disk = emptyFile(join(folder, 'disk'), 48 * MiB);
  await run('sfdisk', ['-q', disk], { input: 'label: gpt\nsize=16MiB\nsize=24MiB\n' });
  t.teardown(() => detachLoops(disk));
  const device = await loop(t, disk);
  await attempt('partx', ['-a', device]);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', `${device}p2`]);
  const outer = await mountOn(t, `${device}p2`, join(folder, 'outer'));
  const inside = emptyFile(join(outer, 'inside'), 8 * MiB);
  t.teardown(() => detachLoops(inside));
  const inner = await loop(t, inside);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', inner]);
  const innermost = await mountOn(t, inner, join(folder, 'inner'));
  await run('mount', ['--bind', outer, await emptyFolder(folder, 'bound')]);
  t.teardown(() => attempt('umount', [join(folder, 'bound')]));
  t.match(
    fileSystemsOn(disk).map(({ mountPoint, level }) => ({ mountPoint, level })),
    [
      { mountPoint: innermost, level: 2 },
      { mountPoint: outer, level: 1 },
    ],
    'each once, the deepest first',
  );

  const { holders } = await freezer(t, fileSystemsOn(disk));
  for (const holder of holders) await holder.hold(never);
  const writers = [outer, innermost].map(there => writeTo(t, there));
  await eventually(() => writers.every(({ child }) => stuck(child)), 'both are held');
  for (const holder of [...holders].reverse()) await holder.release(never);
  await eventually(() => writers.every(({ ended }) => ended()), 'both go on');
  t.ok((await thawed(outer)) && (await thawed(innermost)));
});

async function emptyFolder(folder: string, name: string): Promise<string> {
  await run('mkdir', [join(folder, name)]);
  return join(folder, name);
}

t.test('one that is mounted in another mount namespace alone', { skip }, async t => {
  const folder = scratch(t);
  const file = emptyFile(join(folder, 'disk'), 16 * MiB);
  t.teardown(() => detachLoops(file));
  const device = await loop(t, file);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  const there = await emptyFolder(folder, 'there');
  const other = spawn('unshare', ['-m', 'sh', '-c', `mount ${device} ${there} && echo mounted && exec cat`], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(async () => {
    const ended = new Promise(done => other.on('close', done));
    other.kill('SIGKILL');
    await ended;
  });
  let said = '';
  other.stdout.setEncoding('utf8').on('data', piece => {
    said += piece;
  });
  await eventually(() => said.includes('mounted'), 'it is mounted');
  const found = fileSystemsOn(file);
  t.match(found, [{ mountPoint: there, type: 'ext4' }]);
  const { holders } = await freezer(t, found);
  await holders[0]!.hold(never);
  const writer = writeTo(t, `/proc/${other.pid}/root${there}`);
  await eventually(() => stuck(writer.child), 'it is held');
  await holders[0]!.release(never);
  await eventually(() => writer.ended(), 'it goes on');
});

t.test('held by somebody else: not ours, and not ours to thaw', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  const { holders } = await freezer(t, fileSystemsOn(file));
  await run('fsfreeze', ['-f', there]);
  await t.rejects(holders[0]!.hold(never), /somebody else has frozen it/);
  await holders[0]!.release(never);
  t.notOk(await thawed(there), 'it was frozen still');
});

t.test('thawed by somebody else: it did not hold', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  const { holders } = await freezer(t, fileSystemsOn(file));
  await holders[0]!.hold(never);
  await run('fsfreeze', ['-u', there]);
  await t.rejects(holders[0]!.release(never), /somebody else thawed it/);
});

t.test('at the deadline it is thawed, and did not hold', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  const { holders } = await freezer(t, fileSystemsOn(file), 1);
  await holders[0]!.hold(never);
  const writer = writeTo(t, there);
  await eventually(() => writer.ended(), 'whoever waited goes on');
  await t.rejects(holders[0]!.release(never), /at the deadline/);
  t.ok(await thawed(there));
});

t.test('another file system over its mount point is never frozen', { skip }, async t => {
  const folder = scratch(t);
  const meant = await ext4On(t, folder, 'meant');
  const over = emptyFile(join(folder, 'over'), 16 * MiB);
  t.teardown(() => detachLoops(over));
  const device = await loop(t, over);
  await run('mke2fs', ['-q', '-F', '-t', 'ext4', device]);
  await mountOn(t, device, meant.there);
  const { holders } = await freezer(t, fileSystemsOn(meant.file));
  await t.rejects(holders[0]!.hold(never), /another file system is mounted over/);
  await holders[0]!.release(never);
  t.ok(await thawed(meant.there));
});

t.test('what the daemon writes to is refused beforehand', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  const found = fileSystemsOn(file);
  await refuseOwn(found, []);
  t.equal(await codeOf(() => refuseOwn(found, [there])), 'HOLD_REFUSED');
  const fd = openSync(join(there, 'log'), 'a');
  try {
    writeSync(fd, 'a line');
    await t.rejects(refuseOwn(found, []), { code: 'HOLD_REFUSED', message: join(there, 'log') });
  } finally {
    closeSync(fd);
  }
  await refuseOwn(found, []);
});

t.test('the process that freezes is killed: the daemon thaws', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  const held = await freezer(t, fileSystemsOn(file));
  await held.holders[0]!.hold(never);
  const writer = writeTo(t, there);
  await eventually(() => stuck(writer.child), 'it is held');
  process.kill(held.pid!, 'SIGKILL');
  await eventually(() => writer.ended(), 'it goes on');
  await t.rejects(held.holders[0]!.release(never), /SIGKILL/);
});

t.test('the daemon is killed: the process that froze thaws', { skip }, async t => {
  const { file, there } = await ext4On(t, scratch(t), 'disk');
  // Killed when it has frozen, and somewhere around the freeze.
  for (const kill of ['frozen', 'asked', 'asked', 'asked']) {
    const script = `
      import { fileSystemsOn } from '${new URL('../../src/cow/file-systems.js', import.meta.url).href}';
      import { Freezer } from '${new URL('../../src/cow/freeze.js', import.meta.url).href}';
      const freezer = await Freezer.start(fileSystemsOn('${file}'), 60000);
      const held = freezer.holders[0].hold(new AbortController().signal);
      console.log('asked', freezer.pid);
      await held;
      console.log('frozen');
      setInterval(() => {}, 1000);`;
    const daemon = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.teardown(() => daemon.kill('SIGKILL'));
    let said = '';
    daemon.stdout.setEncoding('utf8').on('data', piece => {
      said += piece;
    });
    await eventually(() => said.includes(kill), kill);
    const writer = kill === 'frozen' ? writeTo(t, there) : undefined;
    if (writer) await eventually(() => stuck(writer.child), 'it is held');
    daemon.kill('SIGKILL');
    const pid = Number(/asked (\d+)/.exec(said)![1]);
    await eventually(() => !running(pid), 'the process has done its work, and ended');
    if (writer) await eventually(() => writer.ended(), 'whoever waited goes on');
    t.ok(await thawed(there), kill);
  }
});

t.test('frozen when nobody waited for it any more: thawed all the same', { skip }, async t => {
  const folder = scratch(t);
  const { file } = await ext4On(t, folder, 'late');
  const log = join(folder, 'log');
  const go = join(folder, 'go');
  const program = join(folder, 'program');
  writeFileSync(
    program,
    `#!/bin/sh
echo ready
while read -r verb index; do
  echo "$verb" >> ${log}
  case $verb in
    sync) echo "synced $index" ;;
    freeze) while test -d ${folder} && ! test -e ${go}; do /bin/sleep 0.01; done; echo "frozen $index" ;;
    thaw) echo "thawed $index" ;;
  esac
done
`,
    { mode: 0o755 },
  );
  const started = await Freezer.start(fileSystemsOn(file), 60_000, program);
  t.teardown(() => started.close());
  const holder = started.holders[0]!;
  const late = new AbortController();
  const holding = t.rejects(holder.hold(late.signal));
  const asked = () => (existsSync(log) ? readFileSync(log, 'utf8') : '');
  await eventually(() => asked().includes('freeze'), 'it was asked');
  late.abort(new Error('too late'));
  await holding;
  writeFileSync(go, '');
  // Its answer is here, or on its way: both are thawed.
  for (let turn = 0; turn < 50; turn++) await new Promise(done => setImmediate(done));
  await holder.release(never);
  t.match(asked(), /thaw/);
});
