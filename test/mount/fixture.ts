/**
 * Disks made from a list of runs over a temporary file, the same bytes as a plain file to compare with, and readers in
 * processes of their own (a process must not read its own mount).
 */
import { execFile, spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Disk } from '../../src/block/disk.js';
import { type Extent, slice } from '../../src/block/extent.js';
import { ImageFile } from '../../src/block/file.js';
import { type BlockSource, checkRange } from '../../src/block/source.js';
import { Engine } from '../../src/native.js';

/** A run of a disk to be made: bytes. */
export type Run = readonly [kind: 'data' | 'zero' | 'bad', length: number];

export interface MadeDisk {
  readonly disk: Disk;
  readonly runs: readonly Run[];
  /** A plain file with the bytes that reads must give; zeros where the disk is bad. */
  readonly oracle: string;
  readonly bytes: Buffer;
}

export class Workshop {
  readonly folder = mkdtempSync(join(tmpdir(), 'asof-mount-'));
  readonly engine = new Engine({ cacheBytes: 16 * 2 ** 20, mapBytes: 16 * 2 ** 20, threads: 2 });
  #disks: Disk[] = [];
  #count = 0;

  /** A new empty directory. */
  directory(): string {
    const path = join(this.folder, `mnt${this.#count++}`);
    mkdirSync(path);
    return path;
  }

  disk(runs: readonly Run[]): MadeDisk {
    const size = runs.reduce((sum, [, length]) => sum + length, 0);
    const stored = randomFillSync(Buffer.alloc(size));
    const bytes = Buffer.from(stored);
    let at = 0;
    for (const [kind, length] of runs) {
      if (kind !== 'data') bytes.fill(0, at, at + length);
      at += length;
    }
    const name = join(this.folder, `disk${this.#count++}`);
    // Where the disk says zero or bad, the file holds something else: bytes from there would be wrong bytes.
    writeFileSync(`${name}.stored`, stored);
    writeFileSync(`${name}.oracle`, bytes);
    const disk = new Disk(this.engine, described(runs, size, ImageFile.open(`${name}.stored`)));
    // As whoever opens a disk does; so few runs are counted before this returns.
    void disk.countAllocated();
    this.#disks.push(disk);
    return { disk, runs, oracle: `${name}.oracle`, bytes };
  }

  close(): void {
    for (const disk of this.#disks) disk.close();
    this.engine.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function described(runs: readonly Run[], size: number, file: ImageFile): BlockSource {
  return {
    size,
    sectorSize: 512,
    *extents(offset, length): Generator<Extent> {
      checkRange(size, offset, length);
      const end = offset + length;
      let start = 0;
      for (const [kind, run] of runs) {
        const from = Math.max(offset, start);
        const to = Math.min(end, start + run);
        const whole: Extent =
          kind === 'data'
            ? { kind, length: run, file, offset: start }
            : kind === 'zero'
              ? { kind, length: run }
              : { kind, length: run, why: 'damaged for the test' };
        if (from < to) yield slice(whole, from - start, to - from);
        start += run;
      }
    },
    close: () => file.close(),
  };
}

export interface Answer {
  readonly status: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Without what makes this process load a sanitizer: readers have nothing to do with the addon. */
const PLAIN: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C' };
delete PLAIN['LD_PRELOAD'];

/** Runs a program to its end, 60 seconds at most. */
export function run(program: string, ...args: string[]): Promise<Answer> {
  return new Promise(resolve => {
    execFile(
      program,
      args,
      {
        encoding: 'buffer',
        maxBuffer: 2 ** 28,
        timeout: 60_000,
        killSignal: 'SIGKILL',
        env: PLAIN,
      },
      (error, stdout, stderr) => {
        const code = error ? error.code : 0;
        resolve({ status: typeof code === 'number' ? code : 128, stdout, stderr: stderr.toString() });
      },
    );
  });
}

export function text(answer: Answer): string {
  return answer.stdout.toString().trim();
}

/** A Python program's standard output, parsed as JSON. */
export async function python(program: string, ...args: string[]): Promise<unknown> {
  const answer = await run('python3', '-c', program, ...args);
  if (answer.status !== 0) throw new Error(`python3: ${answer.stderr}`);
  return JSON.parse(text(answer));
}

export function has(program: string): boolean {
  return spawnSync('which', [program], { env: PLAIN }).status === 0;
}

/** Why FUSE mounts cannot be tested here; '' where they can. */
export function cannotMount(unavailable: string | undefined): string {
  return unavailable ?? (has('python3') ? '' : 'python3, which reads the mounts, is not installed');
}

/** Asks until `done` is true. Throws after a minute. */
export async function until(done: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = Date.now() + 60_000;
  while (!(await done())) {
    if (Date.now() > end) throw new Error(`waited a minute for ${what}`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}
