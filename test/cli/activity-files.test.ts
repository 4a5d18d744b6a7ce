/**
 * Whose the sectors are that changed: of ext4, XFS and NTFS each file that was written is named, with what it was given, and no
 * other one is; journal, metadata and free space stand for themselves.
 * Oracle: what the test wrote.
 */
import { closeSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { ChangeOwners } from '../../src/activity-files.js';
import type { Manifest } from '../../src/image/manifest.js';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { MIB, NEEDS, scratch } from './file-lab.js';

t.setTimeout(240_000);

const TOOLS = ['losetup', 'mount', 'umount', 'sync'];
const BIG = 3 * MIB;
const SMALL = 300_000;

/** Names that would be something else on a terminal, or between the lines of a tool. */
const HOSTILE = 'a\x1b[2J b\nInode 65 ';

interface Kind {
  readonly type: string;
  readonly make: readonly string[];
  readonly size: number;
  readonly posix: boolean;
}

const EXT4: Kind = { type: 'ext4', make: ['mkfs.ext4', '-q', '-F'], size: 96 * MIB, posix: true };
const XFS: Kind = { type: 'xfs', make: ['mkfs.xfs', '-q', '-f'], size: 320 * MIB, posix: true };
const NTFS: Kind = { type: 'ntfs-3g', make: ['mkntfs', '-q', '-F', '-Q'], size: 96 * MIB, posix: false };

async function make({ make, size }: Kind, path: string): Promise<void> {
  writeFileSync(path, '');
  truncateSync(path, size);
  await run(make[0]!, [...make.slice(1), path]);
}

/** Mounts `target` (a file or a part of one), lets `work` see it, unmounts. */
async function mounted(
  t: Test,
  folder: string,
  { type }: Kind,
  target: string,
  work: (root: string) => void | Promise<void>,
  options = 'loop',
): Promise<void> {
  const root = join(folder, 'there');
  mkdirSync(root, { recursive: true });
  t.teardown(async () => {
    await attempt('umount', [root]);
    await detachLoops(target);
  });
  await run('mount', ['-o', options, '-t', type, target, root]);
  try {
    await work(root);
  } finally {
    await run('umount', [root]);
  }
}

function begin(root: string): void {
  mkdirSync(join(root, 'var/log'), { recursive: true });
  writeFileSync(join(root, 'var/still'), noise(1, BIG));
  writeFileSync(join(root, 'var/rewritten'), noise(2, BIG));
  writeFileSync(join(root, 'gone'), noise(3, MIB));
}

function change(root: string): void {
  const fd = openSync(join(root, 'var/rewritten'), 'r+');
  writeSync(fd, noise(4, MIB), 0, MIB, MIB);
  closeSync(fd);
  writeFileSync(join(root, 'var/log/new'), noise(5, BIG));
  writeFileSync(join(root, HOSTILE), noise(6, SMALL));
  rmSync(join(root, 'gone'));
}

/** What lies behind the end of a file in its last block was zeros before, and is. */
const round = (bytes: number) => Math.ceil(bytes / 512) * 512;

function isRight(t: Test, { type }: Kind, owners: ChangeOwners, what: string): void {
  const [part] = owners.parts.filter(({ fileSystem }) => fileSystem !== null);
  const files = new Map(part!.files.map(({ path, bytes }) => [path, bytes]));
  t.equal(files.get('/var/log/new'), round(BIG), `${what}: a new file`);
  t.equal(files.get('/var/rewritten'), MIB, `${what}: of one that was rewritten, what was`);
  t.equal(files.get('/var/still'), undefined, `${what}: one that was left alone`);
  if (type !== 'ntfs-3g') t.equal(files.get(`/${HOSTILE}`), round(SMALL), `${what}: whatever its name is`);
  else {
    const bytes = [...files.values()].reduce((sum, one) => sum + one, 0);
    t.ok(bytes >= round(BIG) + MIB + round(SMALL), `${what}: of all files, whatever their names are`);
  }
  const { changed, fileBytes, journal, free, metadata, notes } = part!;
  t.same(notes, [], what);
  t.equal(fileBytes + (journal ?? 0) + (free ?? 0) + metadata, changed, `${what}: nothing is left over`);
  t.ok(metadata > 0 && metadata < 2 * MIB, `${what}: the metadata, ${metadata}`);
  if (type === 'ext4') t.ok(journal! > 0, `${what}: the journal`);
}

async function works(t: Test, kind: Kind): Promise<void> {
  const folder = scratch(t);
  const image = join(folder, 'fs.img');
  const history = join(folder, 'history');
  await make(kind, image);
  await mounted(t, folder, kind, image, begin);
  const first = await asofJson<Manifest>('backup', image, '--to', history);
  await mounted(t, folder, kind, image, change);
  const second = await asofJson<Manifest>('backup', image, '--to', history);
  const point = await asofJson<ChangeOwners & { base: string }>(
    'activity',
    `${history}@${second.id}`,
    '--files',
  );
  t.equal(point.base, first.id);
  isRight(t, kind, point, 'a point');
  const two = await asofJson<ChangeOwners>(
    'diff',
    `${history}@${first.id}`,
    image,
    '--by-file',
    '--top',
    '10',
  );
  isRight(t, kind, two, 'two points');
  const { stdout } = await asof('activity', history, '--files', '--top', '1');
  const text = stdout.toString();
  t.match(text, /CHANGED +OF\n +3 MiB +\/var\/log\/new\n/);
  t.match(text, /\(\d+ more files?\)/);
  t.notMatch(text, '\x1b');
  const full = await asofJson<ChangeOwners>('activity', `${history}@${first.id}`, '--files');
  t.match(
    full.parts[0]!.files.slice(0, 2).map(({ bytes }) => bytes),
    [round(BIG), round(BIG)],
    'a full one',
  );
}

for (const kind of [EXT4, XFS, NTFS]) {
  const tools = kind.posix ? [] : ['ntfscluster', 'ntfs-3g'];
  t.test(kind.type, { skip: missing([...TOOLS, ...tools, kind.make[0]!], NEEDS) }, t => works(t, kind));
}
