/** What is known by a mark alone (util-linux, libblkid/src/superblocks). */
import type { ContentReader } from '../content.js';
import { hasAt, uuidAt } from './fields.js';

interface Mark {
  readonly type: string;
  readonly offset: number;
  readonly text: string;
  /** Where its UUID is. */
  readonly uuid?: number;
}

const MARKS: readonly Mark[] = [
  { type: 'ReFS', offset: 3, text: 'ReFS\0\0\0\0' },
  { type: 'squashfs', offset: 0, text: 'hsqs' },
  { type: 'erofs', offset: 1024, text: '\xe2\xe1\xf5\xe0', uuid: 1024 + 48 },
  { type: 'bcache', offset: 4120, text: '\xc6\x85\x73\xf6\x4e\x1a\x45\xca', uuid: 4136 },
  { type: 'hfs', offset: 1024, text: 'BD' },
  { type: 'qcow2', offset: 0, text: 'QFI\xfb' },
  { type: 'vhdx', offset: 0, text: 'vhdxfile' },
  { type: 'vmdk', offset: 0, text: 'KDMV' },
];

export const others: ContentReader = head => {
  const found = MARKS.find(({ offset, text }) => hasAt(head, offset, text));
  if (!found) return undefined;
  const { type, uuid } = found;
  return { type, version: '', label: '', uuid: uuid === undefined ? '' : uuidAt(head, uuid) };
};
