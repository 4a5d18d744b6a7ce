/** Times as people read them. */

/** `90` seconds as `1 min 30 s`; at most two units. */
export function humanSeconds(seconds: number): string {
  const units = [
    ['d', 86400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ] as const;
  const parts: string[] = [];
  let left = Math.round(seconds);
  for (const [name, length] of units) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count > 0) parts.push(`${count} ${name}`);
  }
  return parts.slice(0, 2).join(' ') || '0 s';
}

/** Nanoseconds as `1.2 ms`, `87 µs`. */
export function humanNanoseconds(nanoseconds: number): string {
  if (nanoseconds >= 1e6) return `${(nanoseconds / 1e6).toFixed(1)} ms`;
  return `${Math.round(nanoseconds / 1000)} µs`;
}
