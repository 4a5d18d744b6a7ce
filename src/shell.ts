/**
 * Commands in hints: what is typed from them must mean what was meant, whatever a path or a name looks like.
 */

/** What a POSIX shell takes as it is; no `~`, which means something at the start of a word. */
const PLAIN = /^[A-Za-z0-9_@%+=:,./-]+$/;

/** `word` as one word of a POSIX shell (Shell Command Language, 2.2.2). */
export function shellQuote(word: string): string {
  return PLAIN.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A template whose values are words: command`umount ${path}`. */
export function command(text: TemplateStringsArray, ...words: readonly (string | number)[]): string {
  return String.raw({ raw: text }, ...words.map(word => shellQuote(String(word))));
}
