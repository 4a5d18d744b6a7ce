/**
 * Bad sectors as ddrescue writes them, for its tools (ddrescuelog, ddrescueview): GNU ddrescue manual, "Mapfile structure".
 */
import type { Run } from './manifest.js';

/** `bad` in order, apart, within `size`. Everything else was rescued. */
export function mapfile(bad: readonly Run[], size: number, time: Date): string {
  const hex = (value: number) => `0x${value.toString(16).toUpperCase().padStart(8, '0')}`;
  const lines = [
    '# Mapfile. Created by asof',
    `# ${time.toISOString()}`,
    '# current_pos  current_status  current_pass',
    `${hex(0)}     +               1`,
    '#      pos        size  status',
  ];
  let at = 0;
  for (const [offset, length] of bad) {
    if (offset > at) lines.push(`${hex(at)}  ${hex(offset - at)}  +`);
    lines.push(`${hex(offset)}  ${hex(length)}  -`);
    at = offset + length;
  }
  if (at < size) lines.push(`${hex(at)}  ${hex(size - at)}  +`);
  return `${lines.join('\n')}\n`;
}
