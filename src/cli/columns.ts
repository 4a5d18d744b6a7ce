/**
 * Aligned columns for people. Control characters of names that came out of an image never reach the terminal.
 */

/** How a column stands: `<` to the left, `>` to the right. */
export type Align = '<' | '>';

/** Lines of `rows` under `head`, each as wide as its widest cell; no space at the end of a line. */
export function columns(head: readonly string[], align: readonly Align[], rows: readonly string[][]): string {
  const all = [head, ...rows];
  // Of thousands of rows nearly all are fine as they are: one look at each.
  return (
    table(all, align, line => !CONTROL.test(line)) ??
    table(
      all.map(row => row.map(printable)),
      align,
    )!
  );
}

/** Undefined where a line is not `sound`. */
function table(
  rows: readonly (readonly string[])[],
  align: readonly Align[],
  sound = (_line: string) => true,
): string | undefined {
  const widths = rows[0]!.map(() => 0);
  for (const row of rows) {
    for (let i = 0; i < widths.length; i++) if (row[i]!.length > widths[i]!) widths[i] = row[i]!.length;
  }
  const lines: string[] = [];
  for (const row of rows) {
    const text = joined(row, align, widths);
    if (!sound(text)) return undefined;
    lines.push(text);
  }
  return `${lines.join('\n')}\n`;
}

/** One line, for rows that are written as they come; `widths` are lower bounds. */
export function line(cells: readonly string[], align: readonly Align[], widths: readonly number[]): string {
  return `${joined(cells, align, widths)}\n`;
}

function joined(cells: readonly string[], align: readonly Align[], widths: readonly number[]): string {
  let text = '';
  for (let i = 0; i < cells.length; i++) {
    const [cell, width] = [cells[i]!, widths[i] ?? 0];
    if (i > 0) text += '  ';
    if (align[i] === '>') text += cell.padStart(width);
    else text += i === cells.length - 1 ? cell : cell.padEnd(width);
  }
  return text.trimEnd();
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
const CONTROL = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
const CONTROLS = new RegExp(CONTROL, 'g');

/** `text` with control characters (escape sequences of a terminal among them) shown as `\xNN`. */
export function printable(text: string): string {
  return text.replace(CONTROLS, c =>
    c < '\u0100'
      ? `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`
      : `\\u${c.charCodeAt(0).toString(16)}`,
  );
}

/** `1 point`, `2 points`. */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}
