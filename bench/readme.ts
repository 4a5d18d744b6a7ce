/**
 * What a benchmark says of itself in bench/README.md: the command, the machine, and its tables between two marks.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { figure } from './table.js';

const README = fileURLToPath(new URL('../../bench/README.md', import.meta.url));
const LOAD = loadavg()[0] ?? Number.NaN;

/** What was run, and on what; `more` are versions of programs. */
export function circumstances(script: string, more: readonly string[]): string {
  const options = process.argv.slice(2).filter(option => option !== '--update');
  const command = [`npm run ${script}`, ...(options.length > 0 ? ['--', ...options] : [])].join(' ');
  const kernel = release().split('-')[0];
  const machine = `${cpus().length} cores (load average before: ${figure(LOAD)}), Linux ${kernel}`;
  return `\`${command}\` on ${[machine, `Node ${process.versions.node}`, ...more].join(', ')}:`;
}

/** Puts the tables between the marks of `script`. */
export function updateReadme(script: string, tables: readonly string[]): void {
  const [first, last] = [`<!-- figures of ${script} -->`, `<!-- end of the figures of ${script} -->`];
  const text = readFileSync(README, 'utf8');
  const [begin, end] = [text.indexOf(first), text.indexOf(last)];
  if (begin < 0 || end < begin) throw new Error(`${README}: the marks of the figures are not there`);
  writeFileSync(README, `${text.slice(0, begin)}${first}\n\n${tables.join('\n\n')}\n\n${text.slice(end)}`);
}
