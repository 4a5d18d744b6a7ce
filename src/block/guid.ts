/** GUIDs as Windows and UEFI store them: the first three fields are little-endian (UEFI specification 2.10, appendix A). */

/** A GUID as text, lower-case, without braces. */
export function guidText(bytes: Buffer, at = 0): string {
  const part = (from: number, to: number) => Buffer.from(bytes.subarray(at + from, at + to));
  const swapped = [part(0, 4).reverse(), part(4, 6).reverse(), part(6, 8).reverse()];
  return [...swapped, part(8, 10), part(10, 16)].map(field => field.toString('hex')).join('-');
}

/** The other way round: hexadecimals in the order in which it is stored. */
export function guidHex(text: string): string {
  const [a = '', b = '', c = '', d = '', e = ''] = text.split('-');
  const swapped = [a, b, c].map(field => Buffer.from(field, 'hex').reverse().toString('hex'));
  return [...swapped, d, e].join('');
}
