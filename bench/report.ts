/**
 * What a benchmark says while it runs, and of where it ran; and the place of its tables in bench/README.md.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { run } from './process.js';
import { figure } from './table.js';

const README = fileURLToPath(new URL('../../bench/README.md', import.meta.url));
/** Before the benchmark itself loads the machine. */
const LOAD = loadavg()[0] ?? Number.NaN;

/** What was run, and on what; `more` are versions of programs. */
export function circumstances(script: string, more: readonly string[]): string {
  const options = process.argv.slice(2).filter(option => option !== '--update');
  const command = [`npm run ${script}`, ...(options.length > 0 ? ['--', ...options] : [])].join(' ');
  const kernel = release().split('-')[0];
  const machine = `${cpus().length} cores (load average before: ${figure(LOAD)}), Linux ${kernel}`;
  return `\`${command}\` on ${[machine, `Node ${process.versions.node}`, ...more].join(', ')}:`;
}

export async function qemuVersion(): Promise<string> {
  const said = await run('qemu-storage-daemon', ['--version']).catch(() => '');
  return `QEMU ${/version (\d+\.\d+\.\d+)/.exec(said)?.[1] ?? 'none'}`;
}

/** Puts the tables between the marks of `script`. */
export function update(script: string, tables: readonly string[]): void {
  const text = readFileSync(README, 'utf8');
  const begin = `<!-- figures of ${script} -->`;
  const at = text.indexOf(begin);
  const end = text.indexOf(`<!-- end of the figures of ${script} -->`);
  if (at < 0 || end < at) throw new Error(`${README}: the marks of the figures of ${script} are not there`);
  const figures = `${begin}\n\n${tables.join('\n\n')}\n\n`;
  writeFileSync(README, text.slice(0, at) + figures + text.slice(end));
}

export function say(text: string): void {
  const clear = process.stderr.isTTY ? '\r\x1b[K' : '';
  process.stderr.write(`${clear}${text}${process.stderr.isTTY ? '' : '\n'}`);
}

/** '' is always there. */
export async function isInstalled(program: string): Promise<boolean> {
  if (!program) return true;
  return run('sh', ['-c', `command -v ${program}`]).then(
    () => true,
    () => false,
  );
}
