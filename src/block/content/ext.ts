/** ext2, ext3 and ext4: the superblock at 1024 (Documentation/filesystems/ext4/super.rst). */
import type { ContentReader } from '../content.js';
import { hasAt, textAt, uuidAt } from './fields.js';

const AT = 1024;
const HAS_JOURNAL = 0x4;
const JOURNAL_DEVICE = 0x8;
/** What ext2 and ext3 know beside: file types, a journal that is to be replayed, meta groups; sparse, large files, btree. */
const OLD_INCOMPATIBLE = 0x2 | 0x4 | 0x10;
const OLD_READ_ONLY = 0x1 | 0x2 | 0x4;

export const ext: ContentReader = head => {
  if (head.length < AT + 264 || !hasAt(head, AT + 56, '\x53\xef')) return undefined;
  const compatible = head.readUInt32LE(AT + 92);
  const incompatible = head.readUInt32LE(AT + 96);
  const readOnly = head.readUInt32LE(AT + 100);
  const old = (incompatible & ~OLD_INCOMPATIBLE) === 0 && (readOnly & ~OLD_READ_ONLY) === 0;
  const type =
    incompatible & JOURNAL_DEVICE ? 'jbd' : !old ? 'ext4' : compatible & HAS_JOURNAL ? 'ext3' : 'ext2';
  return { type, version: '', label: textAt(head, AT + 120, 16), uuid: uuidAt(head, AT + 104) };
};
