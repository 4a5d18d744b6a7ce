/** Disks with partitions and real file systems on them, and what is left of a drive when it has gone. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, type Facility, run } from '../peers.js';
import { asofJson } from './asof.js';

export const MIB = 2 ** 20;
export const DRIVE_PEERS = [
  ...['losetup', 'addpart', 'blockdev', 'mount', 'umount', 'sfdisk'],
  ...['mkfs.ext4', 'mkfs.xfs', 'mkfs.btrfs', 'mkntfs', 'ntfs-3g', 'mkswap'],
];
export const DRIVE_NEEDS: readonly Facility[] = ['root', 'loop', 'fuse'];

/** Sectors of 512 bytes of each: enough for the smallest that its maker makes. */
const KINDS = {
  ext4: { size: 16, make: ['mkfs.ext4', '-q', '-L', 'root'] },
  xfs: { size: 320, make: ['mkfs.xfs', '-q', '-L', 'data'] },
  btrfs: { size: 120, make: ['mkfs.btrfs', '-q', '-L', 'tree'] },
  ntfs: { size: 16, make: ['mkntfs', '-F', '-q', '-Q', '-L', 'windows'] },
  swap: { size: 4, make: ['mkswap', '-L', 'swapped'] },
} as const;
export type Kind = keyof typeof KINDS;

export function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-drive-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export const LETTER = noise(7, 300_000);

let made = 0;

/** A file system in a file of its own, with a letter in home/alice. */
export async function fileSystem(t: Test, folder: string, kind: Kind): Promise<string> {
  const path = join(folder, `${kind}-${made++}.fs`);
  const { size, make } = KINDS[kind];
  writeFileSync(path, '');
  truncateSync(path, size * MIB);
  const [program, ...options] = make;
  await run(program, [...options, path]);
  if (kind === 'swap') return path;
  const root = `${path}.mnt`;
  mkdirSync(root);
  t.teardown(async () => {
    await attempt('umount', [root]);
    await detachLoops(path);
  });
  if (kind === 'ntfs') await run('ntfs-3g', [path, root]);
  else await run('mount', ['-o', 'loop', path, root]);
  mkdirSync(join(root, 'home/alice'), { recursive: true });
  writeFileSync(join(root, 'home/alice/letter'), LETTER);
  await run('sync', ['-f', root]);
  await run('umount', [root]);
  return path;
}

/** A raw disk whose partitions are copies of those files. */
export async function partitionedDisk(
  path: string,
  label: 'gpt' | 'dos',
  files: readonly { readonly file: string; readonly size: number }[],
): Promise<void> {
  let at = 1;
  const lines: string[] = [];
  for (const [i, { size }] of files.entries()) {
    if (label === 'dos' && i === 3) {
      lines.push(`start=${at * 2048},type=5`);
      at++;
    }
    lines.push(`start=${at * 2048},size=${size * 2048}`);
    at += size + 1;
  }
  writeFileSync(path, '');
  truncateSync(path, (at + 2) * MIB);
  await run('sfdisk', ['--quiet', '--no-tell-kernel', path], {
    input: `label: ${label}\n${lines.join('\n')}\n`,
  });
  at = 1;
  for (const [i, { file, size }] of files.entries()) {
    if (label === 'dos' && i === 3) at++;
    await run('dd', [
      `if=${file}`,
      `of=${path}`,
      'bs=1M',
      `seek=${at}`,
      'conv=notrunc,sparse',
      'status=none',
    ]);
    at += size + 1;
  }
}

export async function diskOf(
  t: Test,
  folder: string,
  label: 'gpt' | 'dos',
  kinds: readonly Kind[],
): Promise<string> {
  const files = [];
  for (const kind of kinds) files.push({ file: await fileSystem(t, folder, kind), size: KINDS[kind].size });
  const path = join(folder, `${label}.raw`);
  await partitionedDisk(path, label, files);
  return path;
}

export function digest(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

/** Whether a folder holds the files of `fileSystem`. */
export const letter = (root: string) => readFileSync(join(root, 'home/alice/letter')).equals(LETTER);

export const list = () => asofJson<Told[]>('attach', '--list');

/** A process that has `path` as its working directory. */
export async function inside(t: Test, path: string): Promise<ChildProcess> {
  const stdio = ['ignore', 'pipe', 'ignore'] as const;
  const child = spawn('sh', ['-c', 'echo; exec sleep 600'], { cwd: path, stdio: [...stdio] });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout!, 'data');
  return child;
}

/** Mounts and loop devices whose path, source or file begins with one of `paths`, and folders of attachments. */
export function remains(...paths: readonly string[]): string[] {
  const mine = (text: string) => paths.some(path => text.includes(path));
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').filter(mine);
  const loops = readdirSync('/sys/block')
    .map(name => `/sys/block/${name}/loop/backing_file`)
    .filter(path => existsSync(path))
    .map(path => readFileSync(path, 'utf8').trim())
    .filter(mine);
  return [...mounts, ...loops];
}

export interface Told {
  readonly device: string | null;
  readonly dir: string | null;
  readonly disk: string;
  readonly mountPoint: string;
  readonly asked: string;
  readonly partitions: readonly { readonly number: number }[];
  readonly partitionDevices: readonly { readonly number: number; readonly device: string }[];
  readonly fileSystems: readonly {
    readonly number: number | null;
    readonly type: string;
    readonly mountPoint: string;
  }[];
  readonly troubles: readonly string[];
  readonly users: readonly { readonly pid: number; readonly command: string }[];
}

/** The folder that an attachment has for itself. */
export const folderOf = ({ disk }: Pick<Told, 'disk'>): string => /^.*\/attach\/[^/]+/.exec(disk)![0];
