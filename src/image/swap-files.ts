/**
 * Swap files of Linux in a file system at rest: found by what its /etc/fstab says and by the names that installers give them,
 * known by the header of swap alone, located by the kernel (FIEMAP, through filefrag(8)) in a read-only mount.
 *
 * A file is left out whose every piece has a place of its own: one that shares a piece with another file, or is packed, is kept.
 */
import { execFile } from 'node:child_process';
import { closeSync, constants, fstatSync, lstatSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { btrfsPlaces } from './btrfs-chunks.js';
import type { Excluded, Run } from './manifest.js';
import { mountAside } from './mounted-aside.js';
import { SWAP_HEAD, swapIn } from './swap.js';
import { type FileSystem, options } from './used-space.js';
import { readAt } from './write.js';

const run = promisify(execFile);

/** How each is mounted without a write. */
const MOUNTS: Partial<Record<FileSystem['name'], readonly [type: string, how: string]>> = {
  ext: ['ext4', 'noload'],
  XFS: ['xfs', 'norecovery,nouuid'],
  btrfs: ['btrfs', 'rescue=nologreplay,subvolid=5'],
};

/** What installers call them: Ubuntu, Debian's and Fedora's guides, openSUSE. */
const USUAL = ['swapfile', 'swap.img', 'swap/swapfile', 'var/swap', 'var/swapfile'];
/** Where a root folder may be: the file system itself, or a subvolume of btrfs (Ubuntu, Fedora). */
const ROOTS = ['', '@', 'root', '@swap'];

const MOST_FSTAB = 2 ** 16;
const MOST_CANDIDATES = 256;
const MOST_EXTENTS = 65_536;
const LISTED = 2 ** 24;

/** Whether swap files are looked for in it. */
export const mayHaveSwapFiles = ({ name }: FileSystem): boolean => MOUNTS[name] !== undefined;

export interface SwapFiles {
  readonly found: readonly Omit<Excluded, 'partition'>[];
  /** What was found and is kept, sentences. */
  readonly kept: readonly string[];
}

/** In the file system that `device` is. Runs are bytes of it. Throws an Error that says why it cannot be looked into. */
export async function swapFiles(device: string, { name }: FileSystem): Promise<SwapFiles> {
  const [type, how] = MOUNTS[name]!;
  const mount = await mountAside(device, type, how);
  try {
    const found: Omit<Excluded, 'partition'>[] = [];
    const kept: string[] = [];
    for (const path of candidates(mount.path)) {
      const file = openWithin(mount.path, path);
      if (file === undefined) continue;
      try {
        const { size } = fstatSync(file);
        const swap = swapIn(readAt(file, 0, SWAP_HEAD), size);
        if (!swap) continue;
        const whole = join(mount.path, path);
        const pieces = name === 'btrfs' && !(await isNoCow(whole)) ? CHECKED : await piecesOf(whole);
        const runs =
          typeof pieces === 'string'
            ? pieces
            : name === 'btrfs'
              ? await btrfsPlaces(device, clip(pieces, swap.from, swap.end))
              : clip(pieces, swap.from, swap.end).map(({ place, length }): Run => [place, length]);
        if (typeof runs === 'string') kept.push(`/${path} is kept: ${runs}`);
        else found.push({ kind: 'swap-file', name: `/${path}`, uuid: swap.uuid, runs });
      } finally {
        closeSync(file);
      }
    }
    return { found, kept };
  } finally {
    await mount.close();
  }
}

/** Paths that may be swap files, each once; no link is followed on the way to the file system's own tables. */
function candidates(root: string): string[] {
  const paths = new Set(ROOTS.flatMap(top => USUAL.map(usual => join(top, usual))));
  paths.add('@swap/swapfile');
  for (const top of ROOTS) {
    const file = openWithin(root, join(top, 'etc/fstab'));
    if (file === undefined) continue;
    try {
      const text = readAt(file, 0, Math.min(fstatSync(file).size, MOST_FSTAB)).toString();
      for (const path of namedBy(text, top)) paths.add(path);
    } finally {
      closeSync(file);
    }
  }
  return [...paths].slice(0, MOST_CANDIDATES);
}

/** Of fstab(5): the files that it names as swap, as they may be called in any of the file systems that it mounts. */
export function namedBy(fstab: string, top: string): string[] {
  const lines = fstab
    .split('\n')
    .map(line => line.trim().split(/\s+/))
    .filter(([spec]) => spec && !spec.startsWith('#'))
    .map(words =>
      words.map(word =>
        word.replaceAll(/\\([0-7]{3})/g, (_, code) => String.fromCharCode(Number.parseInt(code, 8))),
      ),
    );
  const paths: string[] = [];
  for (const [spec = '', , type] of lines) {
    if (type !== 'swap' || !spec.startsWith('/') || spec.startsWith('/dev/')) continue;
    const names = spec.split('/').filter(name => name !== '' && name !== '.');
    if (names.includes('..') || spec.includes('\0')) continue;
    const path = names.join('/');
    paths.push(path, join(top, path));
    for (const [, at = '', , how = ''] of lines) {
      const prefix = at.split('/').filter(Boolean).join('/');
      if (prefix !== '' && !path.startsWith(`${prefix}/`)) continue;
      const rest = prefix === '' ? path : path.slice(prefix.length + 1);
      const subvolume = /(?:^|,)subvol=\/?([^,]+)/.exec(how)?.[1] ?? '';
      if (!subvolume.split('/').includes('..')) paths.push(join(subvolume, rest));
    }
  }
  return paths;
}

/** A regular file, where no name on the way is a link; undefined where it is anything else. */
function openWithin(root: string, path: string): number | undefined {
  let at = root;
  try {
    const names = path.split('/');
    for (const [i, name] of names.entries()) {
      at = join(at, name);
      const stat = lstatSync(at);
      if (i < names.length - 1 ? !stat.isDirectory() : !stat.isFile()) return undefined;
    }
    return openSync(at, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

export interface Piece {
  /** Bytes: in the file, and where that is. */
  readonly at: number;
  readonly place: number;
  readonly length: number;
}

/** Zeros would not have the checksums that btrfs keeps of them; of a file that can be swap it keeps none. */
const CHECKED = 'btrfs has checksums of it, so that it cannot be swap (chattr +C)';

async function isNoCow(path: string): Promise<boolean> {
  try {
    const { stdout } = await run('lsattr', ['-d', '--', path], options(LISTED));
    return /^[^ ]*C/.test(stdout);
  } catch {
    return false;
  }
}

async function piecesOf(path: string): Promise<Piece[] | string> {
  let listed: string;
  try {
    listed = (await run('filefrag', ['-v', path], options(LISTED))).stdout;
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === 'ENOENT') return 'filefrag is not installed, which comes with e2fsprogs';
    return `where it lies cannot be told: ${String(error).slice(0, 200)}`;
  }
  return parsePieces(listed);
}

/** Of filefrag -v; a sentence where a piece has no place of its own. */
export function parsePieces(listed: string): Piece[] | string {
  const block = Number(/\(\d+ blocks? of (\d+) bytes\)/.exec(listed)?.[1] ?? 0);
  if (block < 512 || block > 2 ** 20) return 'where it lies cannot be told';
  const pieces: Piece[] = [];
  for (const line of listed.split('\n')) {
    const found = /^ *\d+: +(\d+)\.\. *\d+: +(\d+)\.\. *\d+: +(\d+):(?: +\d+:)? *([a-z_,]*) *$/.exec(line);
    if (!found) continue;
    const [, at, place, length, flags = ''] = found;
    const odd = flags.split(',').filter(flag => !['', 'last', 'eof', 'unwritten', 'merged'].includes(flag));
    if (odd.length > 0) return `a piece of it is ${odd.join(', ')}`;
    pieces.push({ at: Number(at) * block, place: Number(place) * block, length: Number(length) * block });
  }
  if (pieces.length > MOST_EXTENTS) return `it lies in more than ${MOST_EXTENTS} pieces`;
  const count = Number(/: (\d+) extents? found/.exec(listed)?.[1] ?? -1);
  return count < 0 || (count > 0 && pieces.length === 0) ? 'where it lies cannot be told' : pieces;
}

/** What of the pieces lies in [from, end) of the file. */
function clip(pieces: readonly Piece[], from: number, end: number): Piece[] {
  const parts: Piece[] = [];
  for (const { at, place, length } of pieces) {
    const first = Math.max(at, from);
    const last = Math.min(at + length, end);
    if (last > first) parts.push({ at: first, place: place + first - at, length: last - first });
  }
  return parts;
}
