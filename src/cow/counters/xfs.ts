/**
 * XFS: xfs_fs.h of the kernel (struct xfs_dsb) and "XFS Algorithms & Data Structures", chapters "Superblocks" and
 * "Journaling Log". The superblock is seldom written; what always moves is the head of the log: even a mount for writing
 * that changes nothing leaves a record behind. The head is where the cycle number of the 512-byte blocks changes.
 */
import { createHash } from 'node:crypto';
import type { ReadAt } from '../partitions.js';
import type { CounterReader } from './table.js';

const SECTOR = 512;
const HEADER_MAGIC = 0xfeedbabe;

export const xfs: CounterReader = {
  name: 'xfs',
  read(read) {
    const block = read(0, SECTOR);
    if (block.length < SECTOR || block.toString('latin1', 0, 4) !== 'XFSB') return undefined;
    return {
      sb_uuid: block.toString('hex', 32, 48),
      sb_icount: String(block.readBigUInt64BE(128)),
      sb_ifree: String(block.readBigUInt64BE(136)),
      sb_fdblocks: String(block.readBigUInt64BE(144)),
      sb_crc: String(block.readUInt32LE(224)),
      sb_lsn: lsn(block.readUInt32BE(240), block.readUInt32BE(244)),
      log_head: logHead(read, block),
      superblock: createHash('sha256').update(block).digest('hex').slice(0, 32),
    };
  },
};

function lsn(cycle: number, block: number): string {
  return `${cycle}:${block}`;
}

/** Cycle and block of the head; in words where the log lies elsewhere or cannot be read. */
function logHead(read: ReadAt, superblock: Buffer): string {
  const blockSize = superblock.readUInt32BE(4);
  const start = superblock.readBigUInt64BE(48);
  const groupBlocks = superblock.readUInt32BE(84);
  const blocks = superblock.readUInt32BE(96);
  const shift = BigInt(superblock[124]!);
  if (start === 0n) return 'external';
  if (blockSize < 512 || blockSize > 65536 || shift > 32n) return 'unreadable';
  const at = (Number(start >> shift) * groupBlocks + Number(start & ((1n << shift) - 1n))) * blockSize;
  const count = Math.floor((blocks * blockSize) / SECTOR);
  const cycleOf = (index: number) => {
    const bytes = read(at + index * SECTOR, 8);
    if (bytes.length < 8) return undefined;
    // A record's header has the magic where other blocks have the cycle.
    return bytes.readUInt32BE(0) === HEADER_MAGIC ? bytes.readUInt32BE(4) : bytes.readUInt32BE(0);
  };
  const first = count > 0 ? cycleOf(0) : undefined;
  const last = count > 0 ? cycleOf(count - 1) : undefined;
  if (first === undefined || last === undefined) return 'unreadable';
  if (first === last) return lsn(first + 1, 0);
  let [low, high] = [0, count - 1]; // cycle(low) = first, cycle(high) ≠ first
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    const cycle = cycleOf(middle);
    if (cycle === undefined) return 'unreadable';
    if (cycle === first) low = middle;
    else high = middle;
  }
  return lsn(first, high);
}
