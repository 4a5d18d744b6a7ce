/**
 * HFS+ and HFSX, also within a wrapper of HFS (Apple, Technical Note TN1150), and APFS (Apple, "Apple File System Reference").
 * An HFS+ volume is called as its root folder, which is the first record of the catalogue.
 */
import { createHash } from 'node:crypto';
import type { ContentReader, Probed } from '../content.js';
import { hasAt, isPowerOfTwo, uuidAt } from './fields.js';

const HEADER = 1024;
/** What an HFS+ volume's own number is hashed with to become a UUID (RFC 4122, version 3). */
const NAMESPACE = Buffer.from('b3e20f39f29211d697a400306543ecac', 'hex');
const LEAF = 0xff;
/** Number of the folder in which the root folder lies. */
const PARENT_OF_ROOT = 1;

export const hfsPlus: ContentReader = async (head, disk) => {
  if (head.length < HEADER + 512) return undefined;
  let at = 0;
  if (hasAt(head, HEADER, 'BD') && hasAt(head, HEADER + 0x7c, 'H+')) {
    at =
      head.readUInt16BE(HEADER + 0x1c) * 512 +
      head.readUInt16BE(HEADER + 0x7e) * head.readUInt32BE(HEADER + 0x14);
  } else if (!hasAt(head, HEADER, 'H+') && !hasAt(head, HEADER, 'HX')) return undefined;
  const header = await disk.read(at + HEADER, 512);
  const version = header.toString('latin1', 0, 2);
  if (header.length < 512 || (version !== 'H+' && version !== 'HX')) return undefined;
  const block = header.readUInt32BE(40);
  const label = isPowerOfTwo(block) && block >= 512 ? await rootName(disk, at, header, block) : '';
  return { type: 'hfsplus', version: version === 'HX' ? 'HFSX' : 'HFS+', label, uuid: uuidOf(header) };
};

function uuidOf(header: Buffer): string {
  const own = header.subarray(104, 112);
  if (own.every(byte => byte === 0)) return '';
  const hash = createHash('md5').update(NAMESPACE).update(own).digest();
  hash[6] = 0x30 | (hash[6]! & 0x0f);
  hash[8] = 0x80 | (hash[8]! & 0x3f);
  return uuidAt(hash, 0);
}

/** The catalogue's first extent is in the volume header; its first leaf has the root folder's name in its first record. */
async function rootName(disk: Probed, at: number, header: Buffer, block: number): Promise<string> {
  const catalogue = at + header.readUInt32BE(288) * block;
  const length = header.readUInt32BE(292) * block;
  const tree = await disk.read(catalogue, 64);
  if (tree.length < 64) return '';
  const nodeSize = tree.readUInt16BE(32);
  const leaf = tree.readUInt32BE(24) * nodeSize;
  if (!isPowerOfTwo(nodeSize) || nodeSize < 512 || leaf === 0 || leaf + nodeSize > length) return '';
  const node = await disk.read(catalogue + leaf, nodeSize);
  if (node.length < nodeSize || node[8] !== LEAF || node.readUInt16BE(10) === 0) return '';
  if (node.readUInt32BE(16) !== PARENT_OF_ROOT) return '';
  const name = Buffer.from(node.subarray(22, 22 + 2 * Math.min(node.readUInt16BE(20), 255)));
  return name.length % 2 === 0 ? name.swap16().toString('utf16le') : '';
}

export const apfs: ContentReader = head => {
  if (!hasAt(head, 32, 'NXSB') || head.length < 88) return undefined;
  const block = head.readUInt32LE(36);
  if (!isPowerOfTwo(block) || block < 4096 || block > 65536) return undefined;
  return { type: 'apfs', version: '', label: '', uuid: uuidAt(head, 72) };
};
