/**
 * What a file system itself says is not in use: partclone's domain map (partclone(8), --domain), read from the very bytes that
 * are backed up, so that map and data are one moment. Whatever the map does not call unused counts as in use.
 *
 * A map is believed of a file system that is at rest alone: one whose journal is still to be replayed may have data where its
 * own map says nothing is, and a hibernated system has it in memory. partclone does not look at all of that; it is looked at here.
 */
import { execFile } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ImageFile } from '../block/file.js';
import type { ReadAt } from '../block/partitions.js';
import { Peek } from '../block/peek.js';
import { rawLayer } from '../block/raw-file.js';
import { stack } from '../block/stack.js';
import { AsofError } from '../errors.js';
import type { Run } from './manifest.js';
import { hibernated, ntfsUnrest } from './ntfs-files.js';
import { storesOf } from './shadow-catalog.js';
import { readAt } from './write.js';

/** Milliseconds for a map. */
const LONGEST = 600_000;

/** Bytes of a map, and of what a log holds; more is refused. */
const MAP_BYTES = 2 ** 28;
const LOG_BYTES = 2 ** 24;

/** Bytes from the beginning that tell what it is: the superblock of btrfs lies at 64 KiB. */
const HEAD = 0x10000 + 4096;

/** At both ends of a file system everything is kept: boot code that it knows nothing of, superblocks of what holds it. */
export const ENDS = 2 ** 20;

export interface UsedSpace {
  /** Runs that nothing uses, rising and apart; undefined where no map can be had or believed. */
  readonly unused: readonly Run[] | undefined;
  /** Which map it is, or why there is none. */
  readonly why: string;
}

/** A file system, by what stands at its beginning. */
export interface FileSystem {
  readonly name: 'XFS' | 'NTFS' | 'exFAT' | 'FAT' | 'btrfs' | 'ext';
  readonly program: string;
  /** As src/block/signature.ts calls it. */
  readonly mark: string;
  readonly is: (head: Buffer) => boolean;
  /** Why it is not at rest, so that neither its map nor what it says of a file can be believed; undefined where it is. */
  readonly unrest: (head: Buffer, path: string) => Promise<string | undefined> | string | undefined;
  /** More that speaks against its map alone. */
  readonly unlikely?: (path: string) => Promise<string | undefined>;
}

const text = (head: Buffer, at: number, length: number) => head.toString('latin1', at, at + length);

const IN_USE = 'it is marked as in use';
const REPLAY = 'its log is to be replayed';

export const FILE_SYSTEMS: readonly FileSystem[] = [
  {
    name: 'XFS',
    program: 'partclone.xfs',
    mark: 'xfs',
    is: head => text(head, 0, 4) === 'XFSB',
    unrest: xfsLog,
  },
  {
    name: 'NTFS',
    program: 'partclone.ntfs',
    mark: 'ntfs',
    is: head => text(head, 3, 8) === 'NTFS    ',
    unrest: (_head, path) => reading(path, ntfsUnrest),
    unlikely: async path => (await reading(path, hibernated)) ?? shadowed(path),
  },
  {
    name: 'exFAT',
    program: 'partclone.exfat',
    mark: 'exfat',
    is: head => text(head, 3, 8) === 'EXFAT   ',
    // Microsoft, "exFAT file system specification", 3.1.13: VolumeFlags.
    unrest: head => ((head[106]! & 2) !== 0 ? IN_USE : undefined),
  },
  {
    name: 'FAT',
    program: 'partclone.fat',
    mark: 'vfat',
    is: head =>
      (text(head, 54, 3) === 'FAT' || text(head, 82, 5) === 'FAT32') && head.readUInt16LE(510) === 0xaa55,
    // Linux, fs/fat/fat.h: FAT_STATE_DIRTY. What stands in the table itself partclone looks at.
    unrest: head => ((head[text(head, 82, 5) === 'FAT32' ? 0x41 : 0x25]! & 1) !== 0 ? IN_USE : undefined),
  },
  {
    name: 'btrfs',
    program: 'partclone.btrfs',
    mark: 'btrfs',
    is: head => text(head, 0x10040, 8) === '_BHRfS_M',
    unrest: btrfsUnrest,
  },
  {
    name: 'ext',
    program: 'partclone.extfs',
    mark: 'ext4',
    is: head => head.readUInt16LE(1024 + 56) === 0xef53,
    unrest: extUnrest,
  },
];

/** The file system that the file or device at `path` begins with. Throws what reading throws. */
export function fileSystemAt(
  path: string,
): { readonly known: FileSystem; readonly head: Buffer } | undefined {
  const head = headOf(path);
  const known = FILE_SYSTEMS.find(({ is }) => is(head));
  return known && { known, head };
}

/** Of the file system that the file or device at `path` holds, which has `size` bytes. Throws nothing. */
export async function usedSpace(path: string, size: number): Promise<UsedSpace> {
  const no = (why: string): UsedSpace => ({ unused: undefined, why });
  let known: FileSystem | undefined;
  try {
    const found = fileSystemAt(path);
    if (!found) return no('it begins with no file system that partclone knows');
    known = found.known;
    const unrest = (await known.unrest(found.head, path)) ?? (await known.unlikely?.(path));
    if (unrest !== undefined) return no(`the map of ${known.name} is not to be believed: ${unrest}`);
    const unused = parseDomain(await domain(known.program, path), size);
    if (typeof unused === 'string') return no(`the map of ${known.program} makes no sense: ${unused}`);
    const why = `the map of ${known.name}, by ${known.program}`;
    return { unused: within(unused, ENDS, size - ENDS), why };
  } catch (error) {
    const { code, stderr, killed } = error as { code?: unknown; stderr?: string; killed?: boolean };
    if (code === 'ENOENT' && known) {
      return no(`${known.program} is not installed: it comes with partclone (apt-get install partclone)`);
    }
    if (killed && known) return no(`${known.program} did not end in ${LONGEST / 60_000} minutes`);
    const said = stderr?.trim().split('\n').slice(-2)[0]?.trim() || String(error);
    return no(
      known ? `${known.program} refused: ${said.slice(0, 300)}` : `it cannot be read: ${String(error)}`,
    );
  }
}

/** The parts of `runs` in [from, to). */
function within(runs: readonly Run[], from: number, to: number): Run[] {
  const parts: Run[] = [];
  for (const [start, length] of runs) {
    const first = Math.max(start, from);
    const end = Math.min(start + length, to);
    if (end > first) parts.push([first, end - first]);
  }
  return parts;
}

function headOf(path: string): Buffer {
  const fd = openSync(path, 'r');
  try {
    return readAt(fd, 0, HEAD);
  } finally {
    closeSync(fd);
  }
}

const run = promisify(execFile);

async function domain(program: string, path: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'asof-map-'));
  try {
    // Its bar sleeps for two seconds between two looks, also where none is shown, and is waited for at the end.
    const args = ['-D', '-q', '-f', '0', '-L', join(folder, 'log'), '-s', path, '-o', '-'];
    const { stdout } = await run(program, args, options());
    return stdout;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export const options = (maxBuffer = MAP_BYTES) => ({
  timeout: LONGEST,
  maxBuffer,
  killSignal: 'SIGKILL' as const,
  // Debian keeps them where only an administrator looks.
  env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
});

/**
 * What a log holds, line by line, that brings nothing but the superblock up to date: freezing a file system leaves one such behind
 * (Linux, fs/xfs/xfs_super.c, xfs_fs_freeze), when everything else is where it belongs.
 */
const SUPERBLOCK_ONLY = [
  /^LOG REC AT LSN cycle \d+ block \d+ \(.*\)$/,
  /^=+$/,
  /^TRANS: tid:0x[0-9a-f]+ {2}#items:\d+ {2}trans:0x[0-9a-f]+ {2}q:0x[0-9a-f]+$/,
  /^BUF: cnt:2 total:2 a:0x[0-9a-f]+ len:24 a:0x[0-9a-f]+ len:\d+$/,
  /^BUF: {2}#regs:2 {3}start blkno:0x0 {3}len:\d+ {3}bmap size:1 {3}flags:0x[0-9a-f]+$/,
  /^SUPER Block Buffer:$/,
];

async function xfsLog(_head: Buffer, path: string): Promise<string | undefined> {
  const unknown = 'xfs_logprint does not say that its log is clean';
  let printed: string;
  try {
    printed = (await run('xfs_logprint', ['-t', path], options(LOG_BYTES))).stdout;
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === 'ENOENT') return 'xfs_logprint is not installed: it comes with xfsprogs';
    return code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER' ? REPLAY : unknown;
  }
  if (/state: <CLEAN>/.test(printed)) return undefined;
  const [, rest] = printed.split(/state: <DIRTY>/);
  if (rest === undefined) return unknown;
  const lines = rest.split('\n').map(line => line.trim());
  const harmless = lines.every(line => line === '' || SUPERBLOCK_ONLY.some(known => known.test(line)));
  return harmless ? undefined : REPLAY;
}

/** A shadow copy stands on what was in use at its time, whether it is now or not: what nobody has overwritten it does not have itself. */
function shadowed(path: string): string | undefined {
  const file = ImageFile.open(path);
  try {
    const count = storesOf(new Peek(stack([rawLayer(file)], 512))).length;
    return count > 0 ? 'it has shadow copies, which stand on what it does not use any more' : undefined;
  } catch (error) {
    if (!(error instanceof AsofError)) throw error;
    return `whether it has shadow copies cannot be told: ${error.message}`;
  } finally {
    file.close();
  }
}

async function reading<T>(path: string, work: (read: ReadAt) => Promise<T>): Promise<T> {
  const fd = openSync(path, 'r');
  try {
    return await work(async (offset, length) => readAt(fd, offset, length));
  } finally {
    closeSync(fd);
  }
}

/**
 * ext2/3/4, lib/ext2fs/ext2_fs.h: s_state, s_feature_incompat. Only who has no journal must have been unmounted to be clean: a
 * file system that was frozen has none of its journal to be replayed.
 */
function extUnrest(head: Buffer): string | undefined {
  const state = head.readUInt16LE(1024 + 0x3a);
  const features = head.readUInt32LE(1024 + 0x60);
  if ((features & 4) !== 0) return 'its journal is to be replayed';
  if ((features & 8) !== 0) return 'it is the journal of another one';
  if ((state & 2) !== 0) return 'it is marked as having errors';
  return state === 1 ? undefined : 'it was not unmounted';
}

/** struct btrfs_super_block: log_root, num_devices. What fsync(2) wrote since the last commit is known to the log tree alone. */
function btrfsUnrest(head: Buffer): string | undefined {
  if (head.readBigUInt64LE(0x10060) !== 0n) return REPLAY;
  return head.readBigUInt64LE(0x10088) === 1n ? undefined : 'it is one of several devices';
}

/** Runs that a domain map calls unused, or why it is none: ddrescue's format, rising and without gaps. */
export function parseDomain(map: string, size: number): Run[] | string {
  const unused: Run[] = [];
  const lines = map.split('\n').filter(line => line !== '' && !line.startsWith('#'));
  if (!/^0x[0-9A-F]+\s+\?$/i.test(lines.shift() ?? '')) return 'it has no status line';
  let end = 0;
  for (const line of lines) {
    const [, from, length, status] = /^0x([0-9A-F]+)\s+0x([0-9A-F]+)\s+([?+])$/i.exec(line) ?? [];
    if (from === undefined) return `it has a line ${JSON.stringify(line.slice(0, 80))}`;
    const [at, bytes] = [Number.parseInt(from, 16), Number.parseInt(length!, 16)];
    if (at !== end) return `it goes on at ${at}, not at ${end}`;
    end = at + bytes;
    if (end > size) return `it is of more bytes than the ${size} that are there`;
    if (status === '?' && bytes > 0) unused.push([at, bytes]);
  }
  return lines.length > 0 ? unused : 'it is empty';
}
