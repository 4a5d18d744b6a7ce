/** exFAT (Microsoft, "exFAT file system specification"): the boot sector, and the label in the root directory. */
import type { ContentReader } from '../content.js';
import { hasAt, serialAt, wideAt } from './fields.js';

const LABEL = 0x83;
/** Bytes of the root directory that are looked through. */
const MOST_BYTES = 64 * 1024;

export const exfat: ContentReader = async (head, disk) => {
  if (head.length < 512 || !hasAt(head, 3, 'EXFAT   ')) return undefined;
  const sectorShift = head[108]!;
  const clusterShift = head[109]!;
  let label = '';
  if (sectorShift >= 9 && sectorShift <= 12 && clusterShift <= 25 - sectorShift) {
    const cluster = 2 ** (sectorShift + clusterShift);
    const root = head.readUInt32LE(88) * 2 ** sectorShift + (head.readUInt32LE(96) - 2) * cluster;
    if (root > 0 && root < disk.size) {
      label = labelIn(await disk.read(root, Math.min(cluster, MOST_BYTES)));
    }
  }
  return { type: 'exfat', version: '1.0', label, uuid: serialAt(head, 100) };
};

function labelIn(directory: Buffer): string {
  for (let at = 0; at + 32 <= directory.length && directory[at] !== 0; at += 32) {
    if (directory[at] === LABEL) return wideAt(directory, at + 2, 2 * Math.min(directory[at + 1]!, 11));
  }
  return '';
}
