/**
 * The header of Linux's swap, in a partition or a file: its first page, which says how many pages follow (Linux,
 * include/linux/swap.h, union swap_header). What follows nobody needs after a start, unless the system sleeps in it: then another
 * mark stands here, and it is no swap.
 */
export interface Swap {
  /** Bytes from its beginning that may be left out: all pages but the first. */
  readonly from: number;
  readonly end: number;
  readonly uuid: string;
  readonly label: string;
}

/** Bytes in which the mark lies, whatever the size of a page. */
export const SWAP_HEAD = 65536;
const PAGES = [4096, 8192, 16384, 32768, 65536];

/** What begins with `head` and has `size` bytes; undefined where it is no swap, or more than it has. */
export function swapIn(head: Buffer, size: number): Swap | undefined {
  const page = PAGES.find(one => head.toString('latin1', one - 10, one) === 'SWAPSPACE2');
  if (page === undefined) return undefined;
  const isLittle = head.readUInt32LE(1024) === 1;
  if (!isLittle && head.readUInt32BE(1024) !== 1) return undefined;
  const last = isLittle ? head.readUInt32LE(1028) : head.readUInt32BE(1028);
  const end = (last + 1) * page;
  if (last < 1 || end > size) return undefined;
  const hex = head.toString('hex', 1036, 1052);
  const uuid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  const label = head.toString('utf8', 1052, 1068).replace(/\0.*$/s, '');
  return { from: page, end, uuid, label };
}
