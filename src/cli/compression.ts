/** How clusters are packed, in words: `none`, `zstd`, `zstd:LEVEL`. */
import { AsofError } from '../errors.js';

/** The level of zstd; 0 is none. Throws USAGE. */
export function parseCompression(text: string): number {
  if (text === 'none') return 0;
  const level = /^zstd(?::(\d{1,2}))?$/.exec(text);
  const number = Number(level?.[1] ?? 3);
  if (level && number >= 1 && number <= 19) return number;
  throw new AsofError('USAGE', `--compress ${JSON.stringify(text)} is none of zstd, zstd:1 to zstd:19, none`);
}
