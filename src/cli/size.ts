/**
 * Sizes and offsets as people type them and as they are shown. All are bytes.
 */
import { AsofError } from '../errors.js';

const UNITS = ['', 'K', 'M', 'G', 'T', 'P', 'E'] as const;

/**
 * The bytes that `text` means: `4096`, `0x1000`, `4K`, `4KiB`, `64M`, `1g`. Units are powers of 1024.
 * Throws USAGE, naming `what`, for anything else, for fractions and for what is above 2^53 - 1.
 */
export function parseSize(text: string, what: string): number {
  const match = /^(?:(0x[0-9a-f]+)|(\d+)(?:([KMGTPE])(?:i?B)?)?)$/i.exec(text.trim());
  if (!match) {
    throw new AsofError(
      'USAGE',
      `${what} ${JSON.stringify(text)} is not a whole number of bytes`,
      'allowed are numbers such as 4096, 0x1000, 4K, 64M, 1G (K is 1024)',
    );
  }
  const [, hex, digits, unit = ''] = match;
  const power = UNITS.indexOf(unit.toUpperCase() as (typeof UNITS)[number]);
  const bytes = Number(hex ?? digits) * 1024 ** power;
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new AsofError('USAGE', `${what} ${text} is more than ${Number.MAX_SAFE_INTEGER} bytes`);
}

/** `1536` as `1.5 KiB`; below 1 KiB as bytes. At most one decimal, none where it would be zero. */
export function humanSize(bytes: number): string {
  let power = 0;
  let value = bytes;
  while (value >= 1024 && power < UNITS.length - 1) {
    value /= 1024;
    power++;
  }
  if (power === 0) return `${bytes} B`;
  const rounded = value >= 1000 ? Math.floor(value) : Math.floor(value * 10) / 10;
  return `${rounded} ${UNITS[power]}iB`;
}

/** Bytes, and in units where that says more: `1536 (1.5 KiB)`. */
export function bothSizes(bytes: number): string {
  return bytes < 1024 ? String(bytes) : `${bytes} (${humanSize(bytes)})`;
}
