/**
 * What a disk or partition holds, in a word, before it is overwritten or mounted: a file system or container (content.ts), or
 * a table of partitions.
 */

import { hasAt } from './content/fields.js';
import { contentOf, contentsOf } from './content.js';
import type { ReadAt } from './partitions.js';

export interface Signature {
  /** As blkid has it where it has one. */
  readonly name: string;
  /** Its UUID or serial number; '' where none is known. */
  readonly id: string;
}

/** What it holds; undefined where nothing known is there. `size`, in bytes, is that of what is read. */
export async function markOf(read: ReadAt, size = Number.MAX_SAFE_INTEGER): Promise<Signature | undefined> {
  const content = await contentOf({ size, read });
  if (content) return { name: content.type, id: content.uuid };
  const head = await read(0, 8192);
  for (const at of [512, 4096])
    if (hasAt(head, at, 'EFI PART')) return { name: 'gpt', id: head.toString('hex', at + 56, at + 72) };
  return hasAt(head, 510, '\x55\xaa') ? { name: 'mbr', id: head.toString('hex', 440, 444) } : undefined;
}

/** Its name alone. */
export async function signatureOf(read: ReadAt, size?: number): Promise<string | undefined> {
  return (await markOf(read, size))?.name;
}

/** The names of all that it may hold, where marks of more than one have stayed; tables of partitions are not among them. */
export async function signaturesOf(
  read: ReadAt,
  size = Number.MAX_SAFE_INTEGER,
): Promise<ReadonlySet<string>> {
  return new Set((await contentsOf({ size, read })).map(({ type }) => type));
}
