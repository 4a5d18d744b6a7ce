/**
 * NTFS, as libfsntfs's documentation ("New Technologies File System", libyal) and the kernel's fs/ntfs3/ntfs.h lay it out.
 *
 * Windows logs every change: the restart area of $LogFile (MFT record 2) names the newest LSN. Linux drivers do not: they
 * set a flag in $Volume (record 3) or reset the log. Hence all of the system records of the MFT are digested as well, among
 * them those of $Bitmap and of the root folder, which change with the first file that is made.
 */
import { createHash } from 'node:crypto';
import type { ReadAt } from '../partitions.js';
import type { CounterReader } from './table.js';

const LOG_FILE = 2;
const VOLUME = 3;
/** Records that are digested: the system's own. */
const RECORDS = 16;
const DATA = 0x80;
const VOLUME_INFORMATION = 0x70;

export const ntfs: CounterReader = {
  name: 'ntfs',
  read(read) {
    const boot = read(0, 512);
    if (boot.length < 512 || boot.toString('latin1', 3, 11) !== 'NTFS    ') return undefined;
    const cluster = boot.readUInt16LE(0x0b) * clusterSectors(boot[0x0d]!);
    const perRecord = boot.readInt8(0x40);
    const recordSize = perRecord > 0 ? perRecord * cluster : 2 ** -perRecord;
    if (cluster < 256 || cluster > 2 ** 21 || recordSize < 256 || recordSize > 65536) return undefined;
    const table = Number(boot.readBigUInt64LE(0x30)) * cluster;
    const records = read(table, RECORDS * recordSize);
    const record = (n: number) => records.subarray(n * recordSize, (n + 1) * recordSize);
    const information = attribute(record(VOLUME), VOLUME_INFORMATION);
    return {
      serial: boot.toString('hex', 0x48, 0x50),
      volume_flags: flagsOf(information),
      ...logValues(read, attribute(record(LOG_FILE), DATA), cluster),
      system_records: createHash('sha256').update(records).digest('hex').slice(0, 32),
    };
  },
};

/** Above 128 it is a negative power of two: for clusters of more than 64 KiB. */
function clusterSectors(value: number): number {
  return value > 128 ? 2 ** (256 - value) : value;
}

/** The attribute of `type` in an MFT record: its header and what is resident. */
function attribute(record: Buffer, type: number): Buffer | undefined {
  if (record.length < 48 || record.toString('latin1', 0, 4) !== 'FILE') return undefined;
  let at = record.readUInt16LE(0x14);
  while (at + 16 <= record.length) {
    const length = record.readUInt32LE(at + 4);
    const found = record.readUInt32LE(at);
    if (found === 0xffffffff || length < 16 || at + length > record.length) return undefined;
    if (found === type) return record.subarray(at, at + length);
    at += length;
  }
  return undefined;
}

/** 1 is dirty. */
function flagsOf(information: Buffer | undefined): string {
  if (!information || information.length < 24) return 'unreadable';
  const at = information.readUInt16LE(0x14) + 10;
  return at + 2 <= information.length ? String(information.readUInt16LE(at)) : 'unreadable';
}

/** $LogFile's two restart pages: the newest LSN, and a digest of both. */
function logValues(read: ReadAt, data: Buffer | undefined, cluster: number): Record<string, string> {
  const first = data && firstCluster(data);
  if (first === undefined) return { log_lsn: 'unreadable', log_restart: 'unreadable' };
  const pages = read(first * cluster, 8192);
  const lsns = [0, 4096]
    .filter(at => pages.length >= at + 0x40 && pages.toString('latin1', at, at + 4) === 'RSTR')
    .map(at => {
      const area = at + pages.readUInt16LE(at + 0x18);
      return area + 8 <= pages.length ? pages.readBigUInt64LE(area) : 0n;
    });
  const newest = lsns.reduce<bigint | undefined>((a, b) => (a === undefined || b > a ? b : a), undefined);
  return {
    log_lsn: newest === undefined ? 'empty' : String(newest),
    log_restart: createHash('sha256').update(pages).digest('hex').slice(0, 32),
  };
}

/** Where the first run of a non-resident attribute lies: the first element of its run list. */
function firstCluster(data: Buffer): number | undefined {
  if (data.length < 0x24 || data[8] !== 1) return undefined;
  const list = data.readUInt16LE(0x20);
  const head = data[list] ?? 0;
  const [lengthBytes, offsetBytes] = [head & 15, head >> 4];
  const at = list + 1 + lengthBytes;
  if (offsetBytes === 0 || offsetBytes > 6 || at + offsetBytes > data.length) return undefined;
  const cluster = data.readIntLE(at, offsetBytes);
  return cluster >= 0 ? cluster : undefined;
}
