/**
 * backup, history, verify and mount as a user runs them: from an image file, by name and by exit status, one writer at a
 * time, and the points in the mount.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { noise } from '../image/peer.js';
import { attempt, missing } from '../peers.js';
import { ASOF, asof, asofJson, eventually } from './asof.js';

t.setTimeout(180_000);

function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-history-cli-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

interface Listed {
  readonly points: readonly { readonly id: string; readonly moment: string; readonly manifest: Manifest }[];
}

t.test('a history', { skip: missing(['cmp', 'cat', 'ls'], ['fuse']) }, async t => {
  const folder = scratch(t);
  const source = join(folder, 'disk.img');
  const history = join(folder, 'history');
  const contents = [noise(1, 300_000), Buffer.concat([noise(1, 200_000), noise(2, 100_000)])];
  writeFileSync(source, contents[0]!);
  const first = await asof('backup', source, '--to', history, '--label', 'the first');
  t.equal(first.status, 0, first.stderr);
  t.match(first.stdout.toString(), /full, because the history has no image/);
  writeFileSync(source, contents[1]!);
  // Two points of one second are told apart by a number; by time, only the later is found.
  const began = Math.floor(Date.now() / 1000);
  await eventually(() => Math.floor(Date.now() / 1000) > began, 'the next second');
  const second = await asof(
    'backup',
    source,
    '--to',
    history,
    '--json',
    '--compress',
    'none',
    '--rate',
    '10M',
  );
  t.equal(second.status, 0, second.stderr);
  const manifest = JSON.parse(second.stdout.toString()) as Manifest;
  t.equal(manifest.kind, 'incremental');
  t.equal(manifest.consistency, 'quiet');
  const progress = second.stderr
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as { progress: { done: number } });
  t.ok(progress.length > 0 && progress.every(one => one.progress.done > 0), 'progress for programs');

  const { points } = await asofJson<Listed>('history', history);
  t.same(
    points.map(point => [point.manifest.kind, point.manifest.label]),
    [
      ['full', 'the first'],
      ['incremental', ''],
    ],
  );
  const table = (await asof('history', history, 'disk')).stdout.toString();
  t.match(table, /full +- +all/);
  t.match(table, new RegExp(`incremental +${points[0]!.id.slice(0, 8)} +compared`));

  const sound = await asof('verify', history);
  t.equal(sound.status, 0);
  t.match(sound.stdout.toString(), /2 points, .*: sound/);
  const sampled = await asofJson<{ points: { bytes: number }[] }>('verify', history, '--sample', '2/2');
  t.same(
    sampled.points.map(({ bytes }) => bytes),
    [0, 0],
    'the second part has nothing of a disk of five clusters',
  );

  const mount = join(folder, 'mount');
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  t.equal((await asof('mount', history, mount)).status, 0);
  for (const [i, point] of points.entries()) {
    const expected = join(folder, `content-${i}`);
    writeFileSync(expected, contents[i]!);
    t.equal(
      (await attempt('cmp', [join(mount, 'disk', point.moment, 'disk'), expected])).code,
      0,
      `point ${i}`,
    );
    const { stdout } = await attempt('cat', [join(mount, 'disk', `@${point.moment}`, 'info.json')]);
    t.equal((JSON.parse(stdout.toString()) as { id: string }).id, point.id, 'found by time');
  }
  t.equal((await attempt('cmp', [join(mount, 'disk', 'disk'), source])).code, 0, 'the newest');
  t.equal((await attempt('ls', [join(mount, 'disk', '@2001-01-01')])).code, 2, 'nothing is that old');
  t.equal((await asof('umount', mount)).status, 0);

  const image = join(history, points[1]!.manifest.image.file);
  const bytes = readFileSync(image);
  bytes[3 * 65536 - 1]! ^= 1;
  bytes[2 * 65536 + 8]! ^= 1;
  writeFileSync(image, bytes);
  const damaged = await asof('verify', image);
  t.equal(damaged.status, 3);
  t.match(damaged.stdout.toString(), /DEFECTS/);
  t.match((await asof('history', history)).stdout.toString(), /DEFECTS/);
});

t.test('what is refused', async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const source = join(folder, 'disk.img');
  writeFileSync(source, noise(1, 70_000));
  const fails = async (status: number, text: RegExp, ...argv: string[]) => {
    const ended = await asof(...argv);
    t.equal(ended.status, status, argv.join(' '));
    t.match(ended.stderr, text);
  };
  await fails(1, /--to/, 'backup', source);
  await fails(1, /compress/, 'backup', source, '--to', history, '--compress', 'lz4');
  await fails(1, /sample/, 'verify', folder, '--sample', '5/4');
  await fails(2, /does not exist/, 'backup', join(folder, 'nothing.img'), '--to', history);
  await fails(2, /nothing tracks|no image/, 'backup', source, '--to', history, '--method', 'tracked');
  await fails(2, /no point is called/, 'verify', source);
  await fails(2, /does not exist/, 'history', join(folder, 'nowhere'));
  await fails(2, /no daemon|daemon/i, 'backup', 'mail', '--to', history, '--state', join(folder, 'state'));
  await fails(2, /no folder|ENOTDIR|EEXIST/, 'backup', source, '--to', source);
});

t.test('one writer at a time; a signal leaves nothing', async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const source = join(folder, 'disk.img');
  writeFileSync(source, noise(1, 40 * 2 ** 20));
  // Slow enough never to end while the test looks.
  const slow = spawn(ASOF, ['backup', source, '--to', history, '--rate', '100K'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.teardown(() => slow.kill('SIGKILL'));
  let said = '';
  slow.stderr.on('data', piece => {
    said += String(piece);
  });
  const ended = new Promise<number | null>(done => slow.on('close', done));
  await eventually(() => {
    try {
      return readdirSync(history).some(name => name.endsWith('.intent'));
    } catch {
      return false;
    }
  }, 'the first has begun');
  const second = await asof('backup', source, '--to', history);
  t.equal(second.status, 2);
  t.match(second.stderr, /another run is writing/);
  slow.kill('SIGINT');
  t.equal(await ended, 2);
  t.match(said, /stopped/);
  t.same(readdirSync(history).sort(), ['.asof-failures', '.asof-lock'], 'but why it ended');
  t.equal((await asof('backup', source, '--to', history)).status, 0);
});
