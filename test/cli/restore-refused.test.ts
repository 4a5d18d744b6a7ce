/**
 * What a restore does not overwrite, each with its code, and that nothing of it was touched; and what is said when it cannot
 * be finished. Damage of the history is an error, or is listed.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { ASOF, asof, asofJson, eventually } from './asof.js';

t.setTimeout(240_000);

const MIB = 2 ** 20;
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-refused-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function made(folder: string, size = 4 * MIB) {
  const history = join(folder, 'history');
  const source = join(folder, 'disk.img');
  writeFileSync(source, noise(1, size));
  const manifest = await asofJson<Manifest>('backup', source, '--to', history, '--compress', 'none');
  const image = join(history, manifest.image.file);
  const refused = async (t: Test, code: string, status: number, text: RegExp, ...argv: string[]) => {
    const ended = await asof('restore', ...argv, '--json');
    t.equal(ended.status, status, argv.join(' '));
    const { error } = JSON.parse(ended.stderr.trim().split('\n').at(-1)!) as {
      error: { code: string; message: string };
    };
    t.equal(error.code, code, error.message);
    t.match(error.message, text);
  };
  return { history, source, image, manifest, refused };
}

t.test('files', async t => {
  const folder = scratch(t);
  const { history, image, refused } = await made(folder);
  const full = join(folder, 'full');
  writeFileSync(full, 'something');
  await refused(t, 'TARGET_OCCUPIED', 2, /holds data/, history, full);
  await refused(t, 'TARGET_OCCUPIED', 2, /qcow2/, history, await copyOf(image, join(folder, 'other.qcow2')));
  t.equal(readFileSync(full, 'utf8'), 'something');
  const before = sha(readFileSync(image));
  await refused(t, 'TARGET_UNUSABLE', 2, /history|part/, history, image, '--force');
  await refused(t, 'TARGET_UNUSABLE', 2, /history/, history, join(history, 'new'));
  await refused(t, 'TARGET_UNUSABLE', 2, /neither/, history, folder);
  await refused(t, 'NOT_FOUND', 2, /does not exist/, history, join(folder, 'no', 'where'));
  await refused(t, 'NOT_FOUND', 2, /no device/, history, '/dev/asof-no-such-disk');
  const copy = await copyOf(image, join(folder, 'copy.qcow2'));
  await refused(t, 'TARGET_UNUSABLE', 2, /part of what/, copy, copy, '--force');
  t.equal(sha(readFileSync(image)), before, 'the image is what it was');
  await refused(t, 'POINT_UNKNOWN', 2, /at or before/, `${history}@2001-01-01`, join(folder, 'new'));
  await refused(t, 'POINT_UNKNOWN', 2, /no point/, `${history}@nothing`, join(folder, 'new'));
  await refused(t, 'USAGE', 1, /TARGET/, history);
  await refused(t, 'USAGE', 1, /partition/, history, join(folder, 'new'), '--partition', '0');
  t.equal(
    statSync(join(folder, 'new'), { throwIfNoEntry: false }),
    undefined,
    'what was refused made no file',
  );
});

async function copyOf(from: string, to: string): Promise<string> {
  writeFileSync(to, readFileSync(from));
  return to;
}

t.test(
  'devices',
  { skip: missing(['losetup', 'mkfs.ext4', 'mount', 'mkswap', 'mkntfs'], ['root', 'loop']) },
  async t => {
    const folder = scratch(t);
    const { history, source, refused } = await made(folder);
    const device = async (name: string, size: number) => {
      const path = join(folder, name);
      writeFileSync(path, '');
      truncateSync(path, size);
      t.teardown(() => detachLoops(path));
      return { path, loop: (await run('losetup', ['-f', '--show', path])).trim() };
    };
    const small = await device('small', 4 * MIB - 4096);
    await refused(t, 'TARGET_TOO_SMALL', 2, /4096 more/, history, small.loop, '--force');
    const busy = await device('busy', 16 * MIB);
    await refused(t, 'TARGET_BUSY', 2, new RegExp(busy.loop), history, busy.path);
    await run('mkfs.ext4', ['-q', '-F', busy.loop]);
    await refused(t, 'TARGET_OCCUPIED', 2, /ext4/, history, busy.loop);
    const root = join(folder, 'mnt');
    mkdirSync(root);
    t.teardown(() => attempt('umount', [root]));
    await run('mount', [busy.loop, root]);
    for (const target of [busy.loop, busy.path]) {
      await refused(t, 'TARGET_BUSY', 2, new RegExp(`mounted on ${root}`), history, target, '--force');
    }
    await run('umount', [root]);
    t.equal((await attempt('e2fsck', ['-fn', busy.loop])).code, 0, 'nothing was touched');
    for (const [make, name] of [
      [['mkswap'], 'swap'],
      [['mkntfs', '-q', '-F', '-Q'], 'ntfs'],
    ] as const) {
      await run(make[0], [...make.slice(1), busy.loop]);
      await refused(t, 'TARGET_OCCUPIED', 2, new RegExp(name), history, busy.loop);
    }
    t.equal((await asof('restore', history, busy.loop, '--force')).status, 0);
    t.equal(sha(readFileSync(busy.loop).subarray(0, 4 * MIB)), sha(readFileSync(source)));
    // A loop device that shows what is restored.
    t.teardown(() => detachLoops(source));
    const own = (await run('losetup', ['-f', '--show', source])).trim();
    await refused(t, 'TARGET_UNUSABLE', 2, /part of what/, source, own, '--force');
    await refused(t, 'TARGET_UNUSABLE', 2, /part of what/, own, own, '--force');
  },
);

t.test('a damaged point', async t => {
  const folder = scratch(t);
  const { history, image, source, refused } = await made(folder);
  const bytes = readFileSync(image);
  const at = bytes.indexOf(readFileSync(source).subarray(2 * MIB, 2 * MIB + 512));
  bytes[at + 100]! ^= 1;
  writeFileSync(image, bytes);
  const target = join(folder, 'target');
  await refused(t, 'DAMAGED', 3, new RegExp(`at ${2 * MIB} .*${target} is half-written`), history, target);
  t.ok(
    readFileSync(target)
      .subarray(0, MIB)
      .every(byte => byte === 0),
    'a half-written target has no beginning',
  );
  const forced = await asof('restore', history, target, '--force', '--ignore-read-errors', '--json');
  t.equal(forced.status, 3);
  const { unsound } = JSON.parse(forced.stdout.toString()) as {
    unsound: { offset: number; length: number }[];
  };
  t.same(
    unsound.map(({ offset, length }) => [offset, length]),
    [[2 * MIB, 65536]],
  );
  const [there, was] = [readFileSync(target), readFileSync(source)];
  t.equal(sha(there.subarray(0, 2 * MIB)), sha(was.subarray(0, 2 * MIB)));
  t.equal(sha(there.subarray(2 * MIB + 65536)), sha(was.subarray(2 * MIB + 65536)), 'all else is right');
});

t.test('a restore that is stopped', async t => {
  const folder = scratch(t);
  const { history } = await made(folder, 24 * MIB);
  const target = join(folder, 'target');
  const slow = spawn(ASOF, ['restore', history, target, '--rate', '1M'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.teardown(() => slow.kill('SIGKILL'));
  let said = '';
  slow.stderr.on('data', piece => {
    said += String(piece);
  });
  const ended = new Promise<number | null>(done => slow.on('close', done));
  await eventually(
    () => readdirSync(folder).includes('target') && statSync(target).blocks > 0,
    'it has begun',
  );
  const second = await asof('restore', history, target, '--force', '--json');
  t.equal(second.status, 2);
  t.match(second.stderr, /TARGET_BUSY/);
  slow.kill('SIGTERM');
  t.equal(await ended, 2);
  t.match(said, /stopped.*half-written/);
  t.ok(
    readFileSync(target)
      .subarray(0, MIB)
      .every(byte => byte === 0),
    'it has no beginning',
  );
  t.equal((await asof('restore', history, target, '--force')).status, 0);
  t.equal(sha(readFileSync(target)), sha(readFileSync(join(folder, 'disk.img'))), 'the next one is whole');
});

t.test('no room', { skip: missing(['mount'], ['root']) }, async t => {
  const folder = scratch(t);
  const { history, refused } = await made(folder);
  const root = join(folder, 'small');
  mkdirSync(root);
  t.teardown(() => attempt('umount', [root]));
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', root]);
  await refused(t, 'TARGET_TOO_SMALL', 2, /more/, history, join(root, 'target'));
  t.same(readdirSync(root), []);
});
