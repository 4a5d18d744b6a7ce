/** Fields of superblocks: texts that may be padded, UUIDs, marks. What lies beyond the bytes reads as empty. */

export function hasAt(bytes: Buffer, at: number, mark: string): boolean {
  return bytes.toString('latin1', at, at + mark.length) === mark;
}

/** Bytes up to a NUL, without blanks behind. */
export function textAt(bytes: Buffer, at: number, length: number): string {
  return bytes
    .toString('utf8', at, at + length)
    .split('\0', 1)[0]!
    .trimEnd();
}

/** UTF-16LE up to a NUL. */
export function wideAt(bytes: Buffer, at: number, length: number): string {
  return bytes.toString('utf16le', at, at + length).split('\0', 1)[0]!;
}

/** The sixteen bytes in the order in which they stand; '' where all are zero. */
export function uuidAt(bytes: Buffer, at: number): string {
  const text = bytes.toString('hex', at, at + 16);
  if (text.length < 32 || /^0+$/.test(text)) return '';
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** A volume's serial number, as DOS shows it: 1A2B-3C4D; '' for none. */
export function serialAt(bytes: Buffer, at: number): string {
  if (bytes.length < at + 4) return '';
  const serial = bytes.readUInt32LE(at);
  const text = serial.toString(16).toUpperCase().padStart(8, '0');
  return serial === 0 ? '' : `${text.slice(0, 4)}-${text.slice(4)}`;
}

export function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}
