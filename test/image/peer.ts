/**
 * The peer: qemu-img and qemu-io, with what the tests of images need of them.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

interface Teardown {
  teardown(action: () => void): void;
}

/** An empty folder that goes when the test ends. */
export function folder(t: Teardown): string {
  const path = mkdtempSync(join(tmpdir(), 'asof-image-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs qemu-io's commands on one image, in one process. */
export function qemuIo(path: string, commands: readonly string[], ...options: string[]): void {
  const out = execFileSync('qemu-io', [...options, ...commands.flatMap(one => ['-c', one]), path], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (/failed|error/i.test(out)) throw new Error(out);
}

/** The peer's bytes of an image, or of a snapshot in it; undefined with its words where it refuses. */
export function convert(path: string, options: { snapshot?: string; format?: string } = {}): Buffer {
  const raw = `${path}.peer.raw`;
  const snapshot = options.snapshot === undefined ? [] : ['-l', `snapshot.name=${options.snapshot}`];
  try {
    qemuImg('convert', '-f', options.format ?? 'qcow2', '-O', 'raw', ...snapshot, path, raw);
    return readFileSync(raw);
  } finally {
    rmSync(raw, { force: true });
  }
}

/** qemu-img check: its report, whatever it found. */
export function qemuCheck(path: string): Record<string, number> {
  const { stdout, stderr, status } = spawnSync('qemu-img', ['check', '--output=json', '-f', 'qcow2', path], {
    encoding: 'utf8',
  });
  if (status === 1 || !stdout) throw new Error(`qemu-img check: ${stderr}`);
  return JSON.parse(stdout) as Record<string, number>;
}

/** Bytes that look random and are the same at every run. */
export function noise(seed: number, length: number): Buffer {
  const key = Buffer.alloc(32, seed);
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}
