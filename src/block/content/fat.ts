/**
 * FAT12, FAT16 and FAT32 (Microsoft, "FAT: General Overview of On-Disk Format", 1.03). The label is the root directory's
 * entry, before that of the boot sector: only the first is changed by who renames a volume.
 */
import type { ContentReader, Probed } from '../content.js';
import { isPowerOfTwo, serialAt, textAt } from './fields.js';

const VOLUME = 0x08;
const LONG_NAME = 0x0f;
/** Clusters of a root directory that are looked through. */
const MOST_CLUSTERS = 32;

export const fat: ContentReader = async (head, disk) => {
  if (head.length < 512 || head.readUInt16LE(510) !== 0xaa55) return undefined;
  const sector = head.readUInt16LE(11);
  const perCluster = head[13]!;
  const reserved = head.readUInt16LE(14);
  const tables = head[16]!;
  const media = head[21]!;
  if (!isPowerOfTwo(sector) || sector < 512 || sector > 4096 || !isPowerOfTwo(perCluster)) return undefined;
  if (reserved === 0 || tables === 0 || tables > 4 || (media !== 0xf0 && media < 0xf8)) return undefined;
  const small = head.readUInt16LE(22);
  const tableSectors = small || head.readUInt32LE(36);
  const sectors = head.readUInt16LE(19) || head.readUInt32LE(32);
  const rootEntries = head.readUInt16LE(17);
  const rootSectors = Math.ceil((rootEntries * 32) / sector);
  const data = reserved + tables * tableSectors + rootSectors;
  const clusters = Math.floor((sectors - data) / perCluster);
  if (tableSectors === 0 || clusters < 1) return undefined;
  const isLarge = small === 0;
  if (isLarge !== (rootEntries === 0)) return undefined;
  const version = isLarge ? 'FAT32' : clusters < 4085 ? 'FAT12' : 'FAT16';
  // The extended boot record is there where its mark is.
  const extended = isLarge ? 64 : 36;
  const isExtended = head[extended + 2] === 0x28 || head[extended + 2] === 0x29;
  const own = isExtended && head[extended + 2] === 0x29 ? textAt(head, extended + 7, 11) : '';
  const bytes = { sector, cluster: sector * perCluster };
  const label = isLarge
    ? await labelInClusters(disk, head.readUInt32LE(44), reserved * sector, data * sector, bytes.cluster)
    : labelIn(
        await disk.read((reserved + tables * tableSectors) * sector, Math.min(rootEntries * 32, 65536)),
      );
  return {
    type: 'vfat',
    version,
    label: label ?? (own === 'NO NAME' ? '' : own),
    uuid: isExtended ? serialAt(head, extended + 3) : '',
  };
};

/** undefined where there is none in it. */
function labelIn(directory: Buffer): string | undefined {
  for (let at = 0; at + 32 <= directory.length; at += 32) {
    if (directory[at] === 0) return undefined;
    const attributes = directory[at + 11]!;
    if (directory[at] === 0xe5 || (attributes & 0x3f) === LONG_NAME || (attributes & 0x18) !== VOLUME)
      continue;
    return textAt(directory, at, 11);
  }
  return undefined;
}

async function labelInClusters(
  disk: Probed,
  first: number,
  table: number,
  data: number,
  cluster: number,
): Promise<string | undefined> {
  let at = first & 0x0fffffff;
  for (let i = 0; i < MOST_CLUSTERS && at >= 2 && at < 0x0ffffff7; i++) {
    const label = labelIn(await disk.read(data + (at - 2) * cluster, cluster));
    if (label !== undefined) return label;
    const next = await disk.read(table + at * 4, 4);
    if (next.length < 4) return undefined;
    at = next.readUInt32LE(0) & 0x0fffffff;
  }
  return undefined;
}
