/**
 * What a disk or partition holds, by the marks that file systems and others leave on it: enough to name it before it is
 * overwritten, and to mount it. Places of the marks are those of util-linux's libblkid (libblkid/src/superblocks).
 */
import type { ReadAt } from './partitions.js';

interface Mark {
  readonly name: string;
  readonly offset: number;
  readonly bytes: Buffer;
  /** Where its UUID or serial number is, and how long that is. */
  readonly id: readonly [offset: number, length: number] | undefined;
}

const mark = (name: string, offset: number, text: string, ...id: [number, number] | []): Mark => ({
  name,
  offset,
  bytes: Buffer.from(text, 'latin1'),
  id: id.length === 2 ? id : undefined,
});

/** Tables of partitions come last: a boot sector may look like one. */
const MARKS: readonly Mark[] = [
  mark('crypto_LUKS', 0, 'LUKS\xba\xbe', 168, 40),
  mark('xfs', 0, 'XFSB', 32, 16),
  mark('ext4', 1080, '\x53\xef', 1128, 16),
  mark('btrfs', 65600, '_BHRfS_M', 65568, 16),
  mark('ntfs', 3, 'NTFS    ', 72, 8),
  mark('exfat', 3, 'EXFAT   ', 100, 4),
  mark('vfat', 82, 'FAT32   ', 67, 4),
  mark('vfat', 54, 'FAT16   ', 39, 4),
  mark('vfat', 54, 'FAT12   ', 39, 4),
  mark('f2fs', 1024, '\x10\x20\xf5\xf2', 1132, 16),
  mark('squashfs', 0, 'hsqs'),
  mark('erofs', 1024, '\xe2\xe1\xf5\xe0'),
  mark('iso9660', 32769, 'CD001'),
  mark('LVM2_member', 512, 'LABELONE', 544, 32),
  mark('linux_raid_member', 4096, '\xfc\x4e\x2b\xa9', 4112, 16),
  mark('linux_raid_member', 0, '\xfc\x4e\x2b\xa9', 16, 16),
  mark('bcache', 4120, '\xc6\x85\x73\xf6\x4e\x1a\x45\xca'),
  mark('swap', 4086, 'SWAPSPACE2'),
  mark('swap', 4086, 'SWAP-SPACE'),
  mark('qcow2', 0, 'QFI\xfb'),
  mark('vhdx', 0, 'vhdxfile'),
  mark('vmdk', 0, 'KDMV'),
  mark('gpt', 512, 'EFI PART', 568, 16),
  mark('gpt', 4096, 'EFI PART', 4152, 16),
  mark('mbr', 510, '\x55\xaa', 440, 4),
];

/** Bytes from the start within which all marks lie. */
export const REACH = 128 * 1024;

export interface Signature {
  /** As blkid has it where it has one. */
  readonly name: string;
  /** Its UUID or serial number, in hexadecimal as it is stored; '' where none is known. */
  readonly id: string;
}

/** What it holds; undefined where no mark is known. */
export async function markOf(read: ReadAt): Promise<Signature | undefined> {
  const bytes = await read(0, REACH);
  const found = MARKS.find(({ offset, bytes: wanted }) =>
    bytes.subarray(offset, offset + wanted.length).equals(wanted),
  );
  if (!found) return undefined;
  const [at, length] = found.id ?? [0, 0];
  return { name: found.name, id: bytes.toString('hex', at, at + length) };
}

/** Its name alone. */
export async function signatureOf(read: ReadAt): Promise<string | undefined> {
  return (await markOf(read))?.name;
}
