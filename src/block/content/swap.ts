/** Swap space: a mark at the end of the first page, whose size is that of the machine (mm/swapfile.c, mkswap(8)). */
import type { ContentReader } from '../content.js';
import { hasAt, textAt, uuidAt } from './fields.js';

const PAGES = [4096, 8192, 16384, 32768, 65536];

export const swap: ContentReader = head => {
  const page = PAGES.find(
    size => hasAt(head, size - 10, 'SWAPSPACE2') || hasAt(head, size - 10, 'SWAP-SPACE'),
  );
  if (!page) return undefined;
  const isOld = hasAt(head, page - 10, 'SWAP-SPACE');
  if (isOld) return { type: 'swap', version: '0', label: '', uuid: '' };
  return { type: 'swap', version: '1', label: textAt(head, 1052, 16), uuid: uuidAt(head, 1036) };
};
