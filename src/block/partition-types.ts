/**
 * What types of partitions are called: the common ones of util-linux (libfdisk, include/pt-mbr-partnames.h and
 * pt-gpt-partnames.h).
 */

const MBR: Readonly<Record<number, string>> = {
  1: 'FAT12',
  4: 'FAT16 <32M',
  6: 'FAT16',
  7: 'HPFS/NTFS/exFAT',
  11: 'W95 FAT32',
  12: 'W95 FAT32 (LBA)',
  14: 'W95 FAT16 (LBA)',
  17: 'Hidden FAT12',
  20: 'Hidden FAT16 <32M',
  22: 'Hidden FAT16',
  23: 'Hidden HPFS/NTFS',
  27: 'Hidden W95 FAT32',
  28: 'Hidden W95 FAT32 (LBA)',
  30: 'Hidden W95 FAT16 (LBA)',
  39: 'Hidden NTFS WinRE',
  66: 'SFS',
  130: 'Linux swap / Solaris',
  131: 'Linux',
  142: 'Linux LVM',
  165: 'FreeBSD',
  166: 'OpenBSD',
  168: 'Darwin UFS',
  169: 'NetBSD',
  175: 'HFS / HFS+',
  191: 'Solaris',
  218: 'Non-FS data',
  238: 'GPT',
  239: 'EFI (FAT-12/16/32)',
  251: 'VMware VMFS',
  252: 'VMware VMKCORE',
  253: 'Linux raid autodetect',
};

const GPT: Readonly<Record<string, string>> = {
  'c12a7328-f81f-11d2-ba4b-00a0c93ec93b': 'EFI System',
  '024dee41-33e7-11d3-9d69-0008c781f39f': 'MBR partition scheme',
  '21686148-6449-6e6f-744e-656564454649': 'BIOS boot',
  'e3c9e316-0b5c-4db8-817d-f92df00215ae': 'Microsoft reserved',
  'ebd0a0a2-b9e5-4433-87c0-68b6b72699c7': 'Microsoft basic data',
  '5808c8aa-7e8f-42e0-85d2-e1e90434cfb3': 'Microsoft LDM metadata',
  'af9b60a0-1431-4f62-bc68-3311714a69ad': 'Microsoft LDM data',
  'de94bba4-06d1-4d40-a16a-bfd50179d6ac': 'Windows recovery environment',
  'e75caf8f-f680-4cee-afa3-b001e56efc2d': 'Microsoft Storage Spaces',
  '0fc63daf-8483-4772-8e79-3d69d8477de4': 'Linux filesystem',
  '0657fd6d-a4ab-43c4-84e5-0933c84b4f4f': 'Linux swap',
  '933ac7e1-2eb4-4f13-b844-0e14e2aef915': 'Linux home',
  '3b8f8425-20e0-4f3b-907f-1a25a76f98e8': 'Linux server data',
  '4f68bce3-e8cd-4db1-96e7-fbcaf984b709': 'Linux root (x86-64)',
  'b921b045-1df0-41c3-af44-4c6f280d3fae': 'Linux root (ARM-64)',
  '8da63339-0007-60c0-c436-083ac8230908': 'Linux reserved',
  'e6d6d379-f507-44c2-a23c-238f2a3df928': 'Linux LVM',
  'a19d880f-05fc-4d3b-a006-743f0f84911e': 'Linux RAID',
  'bc13c2ff-59e6-4262-a352-b275fd6f7172': 'Linux extended boot',
  'ca7d7ccb-63ed-4c53-861c-1742536059cc': 'Linux LUKS',
  '48465300-0000-11aa-aa11-00306543ecac': 'Apple HFS/HFS+',
  '7c3457ef-0000-11aa-aa11-00306543ecac': 'Apple APFS',
  '53746f72-6167-11aa-aa11-00306543ecac': 'Apple Core storage',
  '6a898cc3-1dd2-11b2-99a6-080020736631': 'Solaris /usr & Apple ZFS',
  '516e7cba-6ecf-11d6-8ff8-00022d09712b': 'FreeBSD ZFS',
  '516e7cb6-6ecf-11d6-8ff8-00022d09712b': 'FreeBSD UFS',
  'aa31e02a-400f-11db-9590-000c2911d1b8': 'VMware VMFS',
};

/** '' where it has no name that is known. */
export function mbrTypeName(type: number): string {
  return MBR[type] ?? '';
}

export function gptTypeName(type: string): string {
  return GPT[type] ?? '';
}
