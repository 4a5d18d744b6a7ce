/** The peer of EWF: ewfacquire and ewfacquirestream write, ewfexport reads. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

/** Writes `bytes` as the image `target` (without an extension); the paths of its segments in order. */
export function acquire(target: string, bytes: Buffer, options: readonly string[]): string[] {
  const { status, stderr } = spawnSync('ewfacquirestream', ['-q', ...options, '-t', target], {
    input: bytes,
  });
  if (status !== 0) throw new Error(`ewfacquirestream: ${stderr.toString()}`);
  return segmentsOf(target);
}

/** The same by ewfacquire, which knows more formats and reads a file. */
export function acquireFile(target: string, bytes: Buffer, options: readonly string[]): string[] {
  const source = `${target}.source`;
  writeFileSync(source, bytes);
  execFileSync('ewfacquire', ['-u', '-q', ...options, '-t', target, source], { stdio: 'ignore' });
  return segmentsOf(target);
}

function segmentsOf(target: string): string[] {
  const stem = `${basename(target)}.`;
  const found = readdirSync(dirname(target)).filter(
    name => name.startsWith(stem) && /^[a-z]([0-9]{2}|[a-z]{2})$/i.test(name.slice(stem.length)),
  );
  return found.sort().map(name => join(dirname(target), name));
}

/** What ewfexport reads of an image. */
export function exported(first: string): Buffer {
  const target = `${first}.export`;
  const options = ['-u', '-q', '-f', 'raw', '-S', '0', '-t', target];
  execFileSync('ewfexport', [...options, first], { stdio: 'ignore' });
  return readFileSync(`${target}.raw`);
}
