/**
 * What holds other volumes: LUKS 1 and 2 (cryptsetup, docs/on-disk-format.pdf and on-disk-format-luks2.pdf), LVM2
 * (lib/format_text/layout.h), Linux software RAID (include/uapi/linux/raid/md_p.h) and BitLocker (libyal/libbde,
 * documentation/).
 */
import type { ContentReader, Probed } from '../content.js';
import { guidOf } from '../gpt.js';
import { hasAt, textAt, uuidAt, wideAt } from './fields.js';

/** Where the second header of LUKS 2 may be, as far as it is looked for. */
const SECOND_HEADERS = [0x4000, 0x8000, 0x10000];

export const luks: ContentReader = head => {
  const type = 'crypto_LUKS';
  if (hasAt(head, 0, 'LUKS\xba\xbe') && head.length >= 208) {
    const version = head.readUInt16BE(6);
    return {
      type,
      version: String(version),
      label: version === 2 ? textAt(head, 24, 48) : '',
      uuid: textAt(head, 168, 40),
    };
  }
  const at = SECOND_HEADERS.find(one => hasAt(head, one, 'SKUL\xba\xbe'));
  if (at === undefined || head.length < at + 208) return undefined;
  return { type, version: '2', label: textAt(head, at + 24, 48), uuid: textAt(head, at + 168, 40) };
};

export const lvm: ContentReader = head => {
  for (let sector = 0; sector < 4; sector++) {
    const at = sector * 512;
    if (!hasAt(head, at, 'LABELONE') || !hasAt(head, at + 24, 'LVM2 001')) continue;
    const id = textAt(head, at + Math.min(head.readUInt32LE(at + 20), 512 - 32), 32);
    const uuid = id.replace(/^(.{6})(.{4})(.{4})(.{4})(.{4})(.{4})(.{6})$/, '$1-$2-$3-$4-$5-$6-$7');
    return { type: 'LVM2_member', version: 'LVM2 001', label: '', uuid };
  }
  return undefined;
};

const RAID = 'linux_raid_member';
const RAID_MARK = '\xfc\x4e\x2b\xa9';

export const linuxRaid: ContentReader = async (head, disk) => {
  for (const [at, version] of [
    [0, '1.1'],
    [4096, '1.2'],
  ] as const) {
    if (hasAt(head, at, RAID_MARK)) return raid(head, at, version);
  }
  // 1.0: at the last place divisible by 4 KiB that leaves 8 KiB; 0.90: at the last but one 64 KiB.
  const end = (Math.floor(disk.size / 512) - 16) * 512;
  const late = end - (end % 4096);
  if (late > 0) {
    const bytes = await disk.read(late, 256);
    if (hasAt(bytes, 0, RAID_MARK)) return raid(bytes, 0, '1.0');
  }
  return oldRaid(disk);
};

function raid(bytes: Buffer, at: number, version: string) {
  return { type: RAID, version, label: textAt(bytes, at + 32, 32), uuid: uuidAt(bytes, at + 16) };
}

async function oldRaid(disk: Probed) {
  const at = disk.size - (disk.size % 65536) - 65536;
  const bytes = at > 0 ? await disk.read(at, 64) : Buffer.alloc(0);
  if (bytes.length < 64 || !hasAt(bytes, 0, RAID_MARK)) return undefined;
  const uuid = Buffer.alloc(16);
  [20, 52, 56, 60].forEach((from, i) => {
    uuid.writeUInt32BE(bytes.readUInt32LE(from), 4 * i);
  });
  return { type: RAID, version: '0.90', label: '', uuid: uuidAt(uuid, 0) };
}

const BITLOCKER = ['4967d63b-2e29-4ad8-8399-f6a339e3d001', '92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8'];
/** Of an entry of the metadata: what the volume was called, as UTF-16. */
const DESCRIPTION = 7;

/** The label is the description: the computer, the volume, and when it was encrypted. */
export const bitlocker: ContentReader = async (head, disk) => {
  if (head.length < 512) return undefined;
  const own = hasAt(head, 3, '-FVE-FS-');
  // To Go: a FAT boot sector with a mark of its own.
  const at = own ? 160 : 424;
  if (!own && !(hasAt(head, 3, 'MSWIN4.1') && BITLOCKER.includes(guidOf(head, 424)))) return undefined;
  const found = { type: 'BitLocker', version: own ? '' : 'To Go', label: '', uuid: '' };
  // Vista counts in clusters, and has no such mark.
  if (!BITLOCKER.includes(guidOf(head, at))) return { ...found, version: 'Vista' };
  const place = Number(head.readBigUInt64LE(at + 16));
  if (place <= 0 || place >= disk.size) return found;
  const block = await disk.read(place, 4096);
  if (block.length < 112 || !hasAt(block, 0, '-FVE-FS-')) return found;
  const end = Math.min(block.length, 64 + block.readUInt32LE(64));
  let label = '';
  for (let entry = 64 + 48; entry + 8 <= end; ) {
    const size = block.readUInt16LE(entry);
    if (size < 8) break;
    if (block.readUInt16LE(entry + 2) === DESCRIPTION)
      label = wideAt(block, entry + 8, Math.min(size - 8, 512));
    entry += size;
  }
  return { ...found, label, uuid: guidOf(block, 64 + 16) };
};
