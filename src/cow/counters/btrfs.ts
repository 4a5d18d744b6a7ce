/**
 * btrfs: fs/btrfs on-disk format, struct btrfs_super_block (include/uapi/linux/btrfs_tree.h), its first copy at 64 KiB.
 * Every transaction raises `generation`, and nothing is written without one.
 */
import { createHash } from 'node:crypto';
import type { CounterReader } from './table.js';

const START = 65536;
const SIZE = 4096;

export const btrfs: CounterReader = {
  name: 'btrfs',
  read(read) {
    const block = read(START, SIZE);
    if (block.length < SIZE || block.toString('latin1', 0x40, 0x48) !== '_BHRfS_M') return undefined;
    const u64 = (at: number) => String(block.readBigUInt64LE(at));
    return {
      fsid: block.toString('hex', 0x20, 0x30),
      generation: u64(0x48),
      root: u64(0x50),
      log_root: u64(0x60),
      bytes_used: u64(0x78),
      csum: block.toString('hex', 0, 0x20),
      superblock: createHash('sha256').update(block).digest('hex').slice(0, 32),
    };
  },
};
