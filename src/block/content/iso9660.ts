/** ISO 9660 (ECMA-119): the primary volume descriptor. As its UUID counts when it was last changed, else made. */
import type { ContentReader } from '../content.js';
import { hasAt, textAt } from './fields.js';

const AT = 32768;

export const iso9660: ContentReader = head => {
  if (!hasAt(head, AT + 1, 'CD001')) return undefined;
  return {
    type: 'iso9660',
    version: '',
    label: textAt(head, AT + 40, 32),
    uuid: timeAt(head, 830) || timeAt(head, 813),
  };
};

function timeAt(head: Buffer, at: number): string {
  const digits = head.toString('latin1', AT + at, AT + at + 16);
  if (!/^\d{16}$/.test(digits) || /^0+$/.test(digits)) return '';
  return digits.replace(/^(....)(..)(..)(..)(..)(..)(..)$/, '$1-$2-$3-$4-$5-$6-$7');
}
