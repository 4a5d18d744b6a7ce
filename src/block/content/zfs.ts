/**
 * ZFS: the first of its four labels, a list of names and values in XDR at 16 KiB ("ZFS On-Disk Specification", chapter 1; RFC
 * 4506). Label and UUID are the pool's.
 */
import type { ContentReader } from '../content.js';

const AT = 16 * 1024;
const LENGTH = 112 * 1024;
const UINT64 = 8;
const STRING = 9;

export const zfs: ContentReader = head => {
  if (head.length < AT + 64 || head.readUInt32BE(AT) >>> 24 !== 1) return undefined;
  const list = head.subarray(AT, Math.min(head.length, AT + LENGTH));
  let label = '';
  let uuid = '';
  // Four bytes say the encoding; the list's own version and flags follow.
  for (let at = 12; at + 12 <= list.length; ) {
    const size = list.readUInt32BE(at);
    const nameLength = list.readUInt32BE(at + 8);
    if (size < 20 || size % 4 !== 0 || at + size > list.length || nameLength + 20 > size) break;
    const name = list.toString('latin1', at + 12, at + 12 + nameLength);
    const value = at + 12 + Math.ceil(nameLength / 4) * 4;
    if (value + 8 > at + size) break;
    const type = list.readUInt32BE(value);
    if (name === 'name' && type === STRING && value + 12 <= at + size) {
      const length = Math.min(list.readUInt32BE(value + 8), at + size - value - 12);
      label = list.toString('utf8', value + 12, value + 12 + length);
    }
    if (name === 'pool_guid' && type === UINT64 && value + 16 <= at + size) {
      uuid = list.readBigUInt64BE(value + 8).toString();
    }
    at += size;
  }
  return uuid === '' ? undefined : { type: 'zfs_member', version: '', label, uuid };
};
