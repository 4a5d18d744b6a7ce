import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ImageFile } from '../../src/block/file.js';
import { noise } from './model.js';

t.test('reads what is there, and leaves the file as it is', async t => {
  const path = join(t.testdir(), 'image');
  const bytes = noise(10_000, 1);
  writeFileSync(path, bytes);
  const before = statSync(path);
  const file = ImageFile.open(path);
  t.equal(file.size, 10_000);
  t.equal(file.path, path);
  t.ok(file.read(0, 10_000).equals(bytes));
  t.ok(file.read(9_990, 100).equals(bytes.subarray(9_990)));
  t.equal(file.read(10_000, 1).length, 0);
  t.equal(file.read(2 ** 50, 1).length, 0);
  t.equal(file.modified.getTime(), before.mtime.getTime());
  truncateSync(path, 100);
  t.equal(file.read(0, 10_000).length, 100, 'it has become shorter');
  file.close();
  file.close();
});

t.test('does not touch the time of the last access', async t => {
  const path = join(t.testdir(), 'image');
  writeFileSync(path, 'bytes');
  const before = statSync(path, { bigint: true });
  const file = ImageFile.open(path);
  t.equal(file.read(0, 5).toString(), 'bytes');
  file.close();
  const after = statSync(path, { bigint: true });
  t.equal(after.atimeNs, before.atimeNs);
  t.equal(after.mtimeNs, before.mtimeNs);
});

t.test('a symbolic link is the file that it points to', async t => {
  const dir = t.testdir();
  writeFileSync(join(dir, 'image'), 'bytes');
  symlinkSync('image', join(dir, 'link'));
  const file = ImageFile.open(join(dir, 'link'));
  t.equal(file.read(0, 5).toString(), 'bytes');
  file.close();
});

t.test('what is no image', async t => {
  const dir = t.testdir();
  t.throws(() => ImageFile.open(join(dir, 'none')), { code: 'NOT_FOUND' });
  t.throws(() => ImageFile.open(dir), { code: 'IO', message: /neither a regular file nor a block device/ });
  t.throws(() => ImageFile.open('/dev/null'), { code: 'IO' });
  execFileSync('mkfifo', [join(dir, 'fifo')]);
  t.throws(() => ImageFile.open(join(dir, 'fifo')), { code: 'IO' }, 'and a FIFO is no hang');
  t.ok(readFileSync('/dev/null').length === 0);
});

// tmpfs, XFS and Btrfs keep times up to the year 292277026596, which a Date cannot tell: "Invalid time value", a bug's
// stack, and no way to look into the image.
const far = existsSync('/dev/shm') ? false : 'no file system with 64-bit times';
t.test('a time beyond what a Date can tell is the furthest that it can', { skip: far }, async t => {
  const dir = mkdtempSync('/dev/shm/asof-file-');
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const path = join(dir, 'image');
  writeFileSync(path, 'bytes');
  for (const [seconds, year] of [
    ['4611686018427387904', 275760],
    ['-4611686018427387904', -271821],
  ] as const) {
    execFileSync('touch', ['-d', `@${seconds}`, path]);
    const file = ImageFile.open(path);
    t.equal(file.modified.getUTCFullYear(), year);
    t.doesNotThrow(() => file.modified.toISOString());
    file.close();
  }
});
