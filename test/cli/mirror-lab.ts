/** Mirrors as a user runs them, with a state directory of their own. */
import { createHash } from 'node:crypto';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { detachLoops, run } from '../peers.js';
import { asof, asofJson } from './asof.js';

export const MIB = 2 ** 20;

export interface Answer {
  readonly first: boolean;
  readonly method: string;
  readonly methodWhy: string;
  readonly compared: number;
  readonly held: number;
  readonly differing: number;
  readonly written: number;
  readonly zeroed: number;
  readonly verified: number | null;
  readonly gptMoved: boolean;
}

export const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

export class MirrorLab {
  readonly folder: string;
  readonly state: string;
  readonly #t: Test;

  constructor(t: Test, folder = mkdtempSync(join(tmpdir(), 'asof-mirror-'))) {
    this.#t = t;
    this.folder = folder;
    this.state = join(folder, 'state');
    t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  file(name: string, bytes: Uint8Array): string {
    const path = this.path(name);
    writeFileSync(path, bytes);
    return path;
  }

  /** A loop device on a new file of that size, filled with `fill`. */
  async device(name: string, size: number, fill = 0): Promise<string> {
    const path = this.file(name, Buffer.alloc(size, fill));
    this.#t.teardown(() => detachLoops(path));
    return (await run('losetup', ['-f', '--show', path])).trim();
  }

  mirror(source: string, target: string, ...more: string[]): Promise<Answer> {
    return asofJson<Answer>('mirror', source, target, '--state', this.state, ...more);
  }

  /** The status, and the answer of `asof mirror --status`. */
  async status(target: string): Promise<{ status: number; state: string; why: string }> {
    const { status, stdout } = await asof('mirror', '--status', target, '--state', this.state, '--json');
    const found = stdout.length > 0 ? (JSON.parse(stdout.toString()) as { state: string; why: string }) : {};
    return { state: '', why: '', ...found, status };
  }

  /** Refused with that code, and `text` in the message; what the target holds stays. */
  async refused(code: string, status: number, text: RegExp, ...argv: string[]): Promise<void> {
    const target = argv[1]!;
    const isFile = statSync(target, { throwIfNoEntry: false })?.isFile();
    const before = isFile ? sha(readFileSync(target)) : undefined;
    const ended = await asof('mirror', ...argv, '--state', this.state, '--json');
    this.#t.equal(ended.status, status, argv.join(' '));
    const { error } = JSON.parse(ended.stderr.trim().split('\n').at(-1)!) as {
      error: { code: string; message: string };
    };
    this.#t.equal(error.code, code, error.message);
    this.#t.match(error.message, text);
    if (before !== undefined) this.#t.equal(sha(readFileSync(target)), before, 'and nothing was written');
  }
}

export function poke(path: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

/** Writes that a block device has met: Documentation/block/stat.rst. */
export function writesTo(device: string): string {
  const fields = readFileSync(`/sys/block/${device.replace('/dev/', '')}/stat`, 'utf8')
    .trim()
    .split(/\s+/);
  return `${fields[4]} ${fields[6]} ${fields[11]} ${fields[13]}`;
}
