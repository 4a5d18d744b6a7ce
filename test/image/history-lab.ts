/**
 * A source whose bytes a test changes, with a tracker of what was written, and backups of it. What points hold is asked of
 * qemu-img (which reads the qcow2 files alone) and of our own reader.
 */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import { ImageFile } from '../../src/block/file.js';
import { rawLayer } from '../../src/block/raw-file.js';
import type { BlockSource } from '../../src/block/source.js';
import { stack } from '../../src/block/stack.js';
import { type BackupOptions, type BackupSource, backup } from '../../src/image/backup.js';
import type { Changes } from '../../src/image/backup-base.js';
import { withBad } from '../../src/image/bad-runs.js';
import { History, type HistoryPoint } from '../../src/image/history.js';
import { leavingOut } from '../../src/image/left-out.js';
import type { Run } from '../../src/image/manifest.js';
import { CLUSTER } from '../../src/image/qcow2-writer.js';
import type { Verified } from '../../src/image/verification.js';
import { verifyPoint } from '../../src/image/verify.js';
import { Engine, loadAddon } from '../../src/native.js';

/** In memory where there is such a place: a backup syncs often. */
export function scratch(t: Test): string {
  let root = tmpdir();
  try {
    writeFileSync('/dev/shm/.asof-probe', '');
    rmSync('/dev/shm/.asof-probe');
    root = '/dev/shm';
  } catch {
    // Slower, and as good.
  }
  const path = mkdtempSync(join(root, 'asof-history-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export const OPTIONS: BackupOptions = {
  kind: undefined,
  base: undefined,
  method: 'auto',
  level: 1,
  ignoreReadErrors: false,
  rate: 0,
  label: '',
  signal: undefined,
  urgent: undefined,
  stored: undefined,
};

export class Lab {
  readonly folder: string;
  readonly history: string;
  readonly source: string;
  bytes: Buffer;
  /** What cannot be read of the source. */
  bad: readonly Run[] = [];
  /** What is left out, by a map. */
  unused: readonly Run[] = [];
  /** What was written since each snapshot. */
  readonly #since = new Map<string, Run[]>();
  #time = Date.UTC(2026, 0, 1);
  #serial = 0;

  constructor(folder: string, bytes: Buffer) {
    this.folder = folder;
    this.history = join(folder, 'history');
    this.source = join(folder, 'source.img');
    this.bytes = bytes;
    writeFileSync(this.source, bytes);
  }

  write(offset: number, bytes: Uint8Array, tracked = true): void {
    this.bytes.set(bytes, offset);
    const fd = openSync(this.source, 'r+');
    writeSync(fd, bytes, 0, bytes.length, offset);
    closeSync(fd);
    if (tracked) for (const runs of this.#since.values()) runs.push([offset, bytes.length]);
  }

  /** The tracker knows nothing of before. */
  forget(): void {
    this.#since.clear();
  }

  /** One more point; its snapshot is what the tracker counts from. */
  async backup(
    options: Partial<BackupOptions> = {},
    facts: Partial<BackupSource> = {},
  ): Promise<HistoryPoint> {
    const file = ImageFile.open(this.source);
    const engine = newEngine();
    const disk = new Disk(engine, leavingOut(withBad(rawSource(file), this.bad), this.unused));
    const snapshot = `snapshot-${++this.#serial}`;
    this.#since.set(snapshot, []);
    this.#time += 60_000;
    try {
      const { point } = await backup(
        this.history,
        {
          disk,
          volume: { id: 'the-volume', name: 'vol', source: 'the origin' },
          time: new Date(this.#time),
          consistency: 'crash',
          snapshot,
          allocation: this.unused.length > 0 ? 'map' : 'holes',
          unused: this.unused,
          tracker: async since => this.#changes(since),
          ...facts,
        },
        { ...OPTIONS, ...options },
      );
      return point;
    } catch (error) {
      this.#since.delete(snapshot);
      throw error;
    } finally {
      disk.close();
      engine.close();
      file.close();
    }
  }

  #changes(since: string): Changes {
    const extents = this.#since.get(since);
    return extents
      ? { extents, why: 'every write was seen' }
      : { extents: undefined, why: 'tracking was lost' };
  }
}

export function newEngine(): Engine {
  return new Engine({ cacheBytes: 2 ** 22, mapBytes: 2 ** 22, threads: availableParallelism() });
}

export function rawSource(file: ImageFile): BlockSource {
  return stack([rawLayer(file)], 512);
}

/** The bytes of a point as a mount shows them. */
export async function readPoint(history: History, point: HistoryPoint): Promise<Buffer> {
  const engine = newEngine();
  const disk = new Disk(engine, history.source(point));
  try {
    return await disk.read(0, disk.size);
  } finally {
    disk.close();
    engine.close();
  }
}

export async function verifyAll(path: string, deep: boolean): Promise<Verified[]> {
  const history = new History(path);
  const engine = newEngine();
  const imager = new (loadAddon().Imager)(2, CLUSTER);
  const results: Verified[] = [];
  try {
    for (const point of history.points) {
      results.push(await verifyPoint(history, point, { engine, imager, parallel: 2, deep, sample: null }));
    }
    return results;
  } finally {
    imager.close();
    engine.close();
    history.close();
  }
}

/** A number generator that is the same in every run (xorshift32): integers below `below`. */
export function random(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return below => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export function readAt(path: string, offset: number, length: number): Buffer {
  const fd = openSync(path, 'r');
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, offset);
  closeSync(fd);
  return bytes;
}
