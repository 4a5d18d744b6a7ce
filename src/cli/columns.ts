/**
 * Aligned columns for people. Control characters of names that came out of an image never reach the terminal.
 */

/** How a column stands: `<` to the left, `>` to the right. */
export type Align = '<' | '>';

/** Lines of `rows` under `head`, each as wide as its widest cell; no space at the end of a line. */
export function columns(head: readonly string[], align: readonly Align[], rows: readonly string[][]): string {
  const shown = [[...head], ...rows].map(row => row.map(printable));
  const widths = head.map((_, i) => shown.reduce((widest, row) => Math.max(widest, row[i]!.length), 0));
  return shown.map(row => line(row, align, widths)).join('');
}

/** One line, for rows that are written as they come; `widths` are lower bounds. */
export function line(cells: readonly string[], align: readonly Align[], widths: readonly number[]): string {
  const padded = cells.map((cell, i) =>
    align[i] === '>' ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0),
  );
  return `${padded.join('  ').trimEnd()}\n`;
}

/** `text` with control characters (escape sequences of a terminal among them) shown as `\xNN`. */
export function printable(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
    /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    c =>
      c < '\u0100'
        ? `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`
        : `\\u${c.charCodeAt(0).toString(16)}`,
  );
}

/** `1 point`, `2 points`. */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}
