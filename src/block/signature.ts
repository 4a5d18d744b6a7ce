/**
 * What a disk or partition holds, by the marks that file systems and others leave on it: enough to name it before it is
 * overwritten, and to mount it. Places of the marks are those of util-linux's libblkid (libblkid/src/superblocks).
 */
import type { ReadAt } from './partitions.js';

interface Mark {
  readonly name: string;
  readonly offset: number;
  readonly bytes: Buffer;
}

const mark = (name: string, offset: number, text: string): Mark => ({
  name,
  offset,
  bytes: Buffer.from(text, 'latin1'),
});

/** Tables of partitions come last: a boot sector may look like one. */
const MARKS: readonly Mark[] = [
  mark('crypto_LUKS', 0, 'LUKS\xba\xbe'),
  mark('xfs', 0, 'XFSB'),
  mark('ext4', 1080, '\x53\xef'),
  mark('btrfs', 65600, '_BHRfS_M'),
  mark('ntfs', 3, 'NTFS    '),
  mark('exfat', 3, 'EXFAT   '),
  mark('vfat', 82, 'FAT32   '),
  mark('vfat', 54, 'FAT16   '),
  mark('vfat', 54, 'FAT12   '),
  mark('f2fs', 1024, '\x10\x20\xf5\xf2'),
  mark('squashfs', 0, 'hsqs'),
  mark('erofs', 1024, '\xe2\xe1\xf5\xe0'),
  mark('iso9660', 32769, 'CD001'),
  mark('LVM2_member', 512, 'LABELONE'),
  mark('linux_raid_member', 4096, '\xfc\x4e\x2b\xa9'),
  mark('linux_raid_member', 0, '\xfc\x4e\x2b\xa9'),
  mark('bcache', 4120, '\xc6\x85\x73\xf6\x4e\x1a\x45\xca'),
  mark('swap', 4086, 'SWAPSPACE2'),
  mark('swap', 4086, 'SWAP-SPACE'),
  mark('qcow2', 0, 'QFI\xfb'),
  mark('vhdx', 0, 'vhdxfile'),
  mark('vmdk', 0, 'KDMV'),
  mark('gpt', 512, 'EFI PART'),
  mark('gpt', 4096, 'EFI PART'),
  mark('mbr', 510, '\x55\xaa'),
];

/** Bytes from the start within which all marks lie. */
const REACH = 128 * 1024;

/** The name of what it holds, as blkid has it where it has one; undefined where no mark is known. */
export async function signatureOf(read: ReadAt): Promise<string | undefined> {
  const bytes = await read(0, REACH);
  return MARKS.find(({ offset, bytes: wanted }) =>
    bytes.subarray(offset, offset + wanted.length).equals(wanted),
  )?.name;
}
