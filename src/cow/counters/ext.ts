/**
 * ext2, ext3, ext4: Documentation/filesystems/ext4/super.rst. A mount for writing raises s_mnt_count and sets s_mtime;
 * every write of the superblock sets s_wtime and, where it has one, its checksum; a replay of the journal clears a flag.
 */
import { createHash } from 'node:crypto';
import type { CounterReader } from './table.js';

const START = 1024;
const SIZE = 1024;
const MAGIC = 0xef53;

export const ext: CounterReader = {
  name: 'ext4',
  read(read) {
    const block = read(START, SIZE);
    if (block.length < SIZE || block.readUInt16LE(0x38) !== MAGIC) return undefined;
    const u32 = (at: number) => String(block.readUInt32LE(at));
    // The high bytes of the times stand apart, since 2038 came into sight.
    const time = (at: number, high: number) => String(block.readUInt32LE(at) + block[high]! * 2 ** 32);
    return {
      s_uuid: block.toString('hex', 0x68, 0x78),
      s_mtime: time(0x2c, 0x275),
      s_wtime: time(0x30, 0x274),
      s_lastcheck: time(0x40, 0x277),
      s_mnt_count: String(block.readUInt16LE(0x34)),
      s_state: String(block.readUInt16LE(0x3a)),
      s_free_blocks_count: u32(0x0c),
      s_free_inodes_count: u32(0x10),
      s_feature_incompat: u32(0x60),
      s_kbytes_written: String(block.readBigUInt64LE(0x178)),
      s_checksum: u32(0x3fc),
      superblock: createHash('sha256').update(block).digest('hex').slice(0, 32),
    };
  },
};
