/**
 * What a file system itself says is not in use: partclone's domain map (partclone(8), --domain), read from the very bytes that
 * are backed up, so that map and data are one moment. Whatever the map does not call unused counts as in use.
 *
 * A map is believed of a file system that is at rest alone: one whose journal is still to be replayed may have data where its
 * own map says nothing is. partclone refuses that for ext; here it is asked of XFS, NTFS, btrfs and exFAT.
 */
import { execFile } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Extent } from '../block/extent.js';
import { type BlockSource, checkRange } from '../block/source.js';
import type { Run } from './manifest.js';
import { readAt } from './write.js';

/** Milliseconds for a map. */
const LONGEST = 600_000;

/** Bytes from the beginning that tell what it is: the superblock of btrfs lies at 64 KiB. */
const HEAD = 0x10000 + 4096;

export interface UsedSpace {
  /** Runs that nothing uses, rising and apart; undefined where no map can be had or believed. */
  readonly unused: readonly Run[] | undefined;
  /** Which map it is, or why there is none. */
  readonly why: string;
}

interface Known {
  readonly name: string;
  readonly program: string;
  readonly is: (head: Buffer) => boolean;
  /** Why it is not at rest; undefined where it is, or where partclone itself finds out. */
  readonly unrest?: (head: Buffer, path: string) => Promise<string | undefined> | string | undefined;
}

const text = (head: Buffer, at: number, length: number) => head.toString('latin1', at, at + length);

const KNOWN: readonly Known[] = [
  { name: 'XFS', program: 'partclone.xfs', is: head => text(head, 0, 4) === 'XFSB', unrest: xfsLog },
  { name: 'NTFS', program: 'partclone.ntfs', is: head => text(head, 3, 8) === 'NTFS    ', unrest: ntfsLog },
  {
    name: 'exFAT',
    program: 'partclone.exfat',
    is: head => text(head, 3, 8) === 'EXFAT   ',
    // Microsoft, "exFAT file system specification", 3.1.13: VolumeFlags.
    unrest: head => ((head[106]! & 2) !== 0 ? 'it is marked as in use' : undefined),
  },
  {
    name: 'FAT',
    program: 'partclone.fat',
    is: head =>
      (text(head, 54, 3) === 'FAT' || text(head, 82, 5) === 'FAT32') && head.readUInt16LE(510) === 0xaa55,
  },
  {
    name: 'btrfs',
    program: 'partclone.btrfs',
    is: head => text(head, 0x10040, 8) === '_BHRfS_M',
    // struct btrfs_super_block: log_root. What fsync(2) wrote since the last commit is known to the log tree alone.
    unrest: head => (head.readBigUInt64LE(0x10060) !== 0n ? 'its log is to be replayed' : undefined),
  },
  { name: 'ext', program: 'partclone.extfs', is: head => head.readUInt16LE(1024 + 56) === 0xef53 },
];

/** Of the file system that the file or device at `path` holds, which has `size` bytes. Throws nothing. */
export async function usedSpace(path: string, size: number): Promise<UsedSpace> {
  const no = (why: string): UsedSpace => ({ unused: undefined, why });
  let known: Known | undefined;
  try {
    const head = headOf(path);
    known = KNOWN.find(({ is }) => is(head));
    if (!known) return no('it begins with no file system that partclone knows');
    const unrest = await known.unrest?.(head, path);
    if (unrest !== undefined) return no(`the map of ${known.name} is not to be believed: ${unrest}`);
    const unused = parseDomain(await domain(known.program, path), size);
    if (typeof unused === 'string') return no(`the map of ${known.program} makes no sense: ${unused}`);
    return { unused, why: `the map of ${known.name}, by ${known.program}` };
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    if (code === 'ENOENT' && known) return no(`${known.program} is not installed`);
    const said = stderr?.trim().split('\n').slice(-2)[0] ?? String(error);
    return no(known ? `${known.program} refused: ${said}` : `it cannot be read: ${String(error)}`);
  }
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
    const args = ['-D', '-q', '-L', join(folder, 'log'), '-s', path, '-o', '-'];
    const { stdout } = await run(program, args, options());
    return stdout;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const options = () => ({
  timeout: LONGEST,
  maxBuffer: 2 ** 30,
  // Debian keeps them where only an administrator looks.
  env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
});

async function xfsLog(_head: Buffer, path: string): Promise<string | undefined> {
  const unknown = 'xfs_logprint does not say that its log is clean';
  try {
    const { stdout } = await run('xfs_logprint', ['-t', path], options());
    if (/state: <CLEAN>/.test(stdout)) return undefined;
    return /state: <DIRTY>/.test(stdout) ? 'its log is to be replayed' : unknown;
  } catch {
    return unknown;
  }
}

/**
 * Whether the log of NTFS is at rest: the restart pages at the beginning of $LogFile, record 2 of the MFT, say so, or nobody has
 * written any. Layout: ntfs-3g, include/ntfs-3g/layout.h and logfile.h; ntfs_is_logfile_clean() in libntfs-3g/logfile.c.
 */
function ntfsLog(head: Buffer, path: string): string | undefined {
  const unknown = 'its log cannot be found';
  const cluster = head.readUInt16LE(0x0b) * head.readUInt8(0x0d);
  const size = head.readInt8(0x40);
  const record = size < 0 ? 2 ** -size : size * cluster;
  if (cluster === 0 || record < 512 || record > 65536) return unknown;
  const fd = openSync(path, 'r');
  try {
    const mft = Number(head.readBigUInt64LE(0x30)) * cluster;
    const file = readAt(fd, mft + 2 * record, record);
    if (text(file, 0, 4) !== 'FILE') return unknown;
    let at = file.readUInt16LE(0x14);
    while (at + 64 <= record && file.readUInt32LE(at) < 0x80) at += file.readUInt32LE(at + 4) || record;
    if (at + 64 > record || file.readUInt32LE(at) !== 0x80 || file[at + 8] !== 1) return unknown;
    const run = at + file.readUInt16LE(at + 0x20);
    const [lengths, places] = [file[run]! & 15, file[run]! >> 4];
    if (lengths < 1 || places < 1 || places > 6 || run + 1 + lengths + places > record) return unknown;
    const log = readAt(fd, file.readIntLE(run + 1 + lengths, places) * cluster, 8192);
    for (const page of [log.subarray(0, 4096), log.subarray(4096)]) {
      if (page.every(byte => byte === 0xff)) continue;
      if (text(page, 0, 4) !== 'RSTR') return unknown;
      const area = page.readUInt16LE(0x18);
      if (area + 16 > page.length) return unknown;
      const isClean = (page.readUInt16LE(area + 14) & 2) !== 0 || page.readUInt16LE(area + 12) === 0xffff;
      if (!isClean) return 'its log is to be replayed';
    }
    return undefined;
  } finally {
    closeSync(fd);
  }
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

/** `source`, of which `unused` reads as zeros: runs that are rising, apart and within its size. */
export function withoutUnused(source: BlockSource, unused: readonly Run[]): BlockSource {
  return {
    ...source,
    *extents(offset, length): Generator<Extent, void, undefined> {
      checkRange(source.size, offset, length);
      const end = offset + length;
      for (let i = firstBehind(unused, offset); i < unused.length && offset < end; i++) {
        const [start, size] = unused[i]!;
        if (start >= end) break;
        if (start > offset) yield* source.extents(offset, start - offset);
        const from = Math.max(start, offset);
        const stop = Math.min(start + size, end);
        yield { kind: 'zero', length: stop - from };
        offset = stop;
      }
      if (offset < end) yield* source.extents(offset, end - offset);
    },
    close: () => source.close(),
  };
}

/** The first run that ends behind `offset`. */
function firstBehind(runs: readonly Run[], offset: number): number {
  let [low, high] = [0, runs.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (runs[middle]![0] + runs[middle]![1] > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
