/**
 * What the examiner and the program wrote into an EWF image: the sections header (one byte a character) and header2
 * (UTF-16), each a zlib stream of lines. The third line has the names of the values in the fourth, tabs between them.
 */
import { inflateSync } from 'node:zlib';

/** Bytes of one unpacked header; a longer one is not read. EnCase itself gives up at 1 MiB of a single value. */
const MOST = 4 * 2 ** 20;

/** Names in the file, and in `asof info`. */
const NAMES: readonly (readonly [string, string])[] = [
  ['c', 'case'],
  ['n', 'evidence'],
  ['a', 'description'],
  ['e', 'examiner'],
  ['t', 'notes'],
  ['m', 'acquired'],
  ['u', 'system date'],
  ['av', 'program'],
  ['ov', 'platform'],
  ['md', 'model'],
  ['sn', 'serial'],
  ['l', 'label'],
];

/** The values of a header, by their names for people; empty where it cannot be read. */
export function parseHeader(packed: Buffer): Map<string, string> {
  const values = new Map<string, string>();
  let bytes: Buffer;
  try {
    bytes = inflateSync(packed, { maxOutputLength: MOST });
  } catch {
    return values;
  }
  const lines = textOf(bytes).split(/\r\n|\n|\r/);
  const keys = (lines[2] ?? '').split('\t');
  const cells = (lines[3] ?? '').split('\t');
  for (const [key, name] of NAMES) {
    const value = cells[keys.indexOf(key)]?.trim();
    if (value) values.set(name, key === 'm' || key === 'u' ? dateOf(value) : value);
  }
  return values;
}

function textOf(bytes: Buffer): string {
  const mark = bytes.length >= 2 ? bytes.readUInt16LE(0) : 0;
  if (mark === 0xfeff) return bytes.toString('utf16le', 2);
  if (mark === 0xfffe) {
    const even = bytes.subarray(2, bytes.length - (bytes.length % 2));
    return Buffer.from(even).swap16().toString('utf16le');
  }
  return bytes.toString('latin1');
}

/** Seconds since 1970, or the six numbers of a local time, whose zone the image does not say. */
function dateOf(value: string): string {
  if (/^\d{5,12}$/.test(value)) return new Date(Number(value) * 1000).toISOString();
  const parts = /^(\d{4}) (\d{1,2}) (\d{1,2}) (\d{1,2}) (\d{1,2}) (\d{1,2})$/.exec(value);
  if (!parts) return value;
  const [year, month, day, hour, minute, second] = parts.slice(1).map(part => part.padStart(2, '0'));
  return `${year}-${month}-${day} ${hour}:${minute}:${second}, local time`;
}
