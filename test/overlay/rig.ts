/**
 * Points to lay an overlay on, with the same bytes in memory as an oracle, and layers over files of any kind.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Disk } from '../../src/block/disk.js';
import type { Extent } from '../../src/block/extent.js';
import { ImageFile } from '../../src/block/file.js';
import { type BlockSource, checkRange } from '../../src/block/source.js';
import {
  type CowModelFile,
  Engine,
  loadAddon,
  type NativeOverlay,
  type NativeReadable,
} from '../../src/native.js';
import { randomOf } from '../cow/rig.js';

export const { openOverlay, CowMachine } = loadAddon();

export interface Base {
  readonly size: number;
  readonly native: NativeReadable;
  /** What it reads as; zeros where it is bad. */
  readonly bytes: Buffer;
  /** Whether its file is what it was. */
  unchanged(): boolean;
  close(): void;
}

/** `bad`: starts and ends of what cannot be read. `zero`: of what is a hole. */
export interface Shape {
  readonly bad?: readonly (readonly [start: number, end: number])[];
  readonly zero?: readonly (readonly [start: number, end: number])[];
}

export function baseOf(folder: string, bytes: Buffer, { bad = [], zero = [] }: Shape = {}): Base {
  const path = join(folder, `point-${names++}`);
  writeFileSync(path, bytes);
  const shown = Buffer.from(bytes);
  for (const [start, end] of [...bad, ...zero]) shown.fill(0, start, end);
  const digest = () => createHash('sha256').update(readFileSync(path)).digest('hex');
  const before = digest();
  const file = ImageFile.open(path);
  const within = (ranges: Shape['bad'], at: number) =>
    ranges?.find(([start, end]) => at >= start && at < end);
  const source: BlockSource = {
    size: bytes.length,
    sectorSize: 512,
    *extents(offset, length): Generator<Extent> {
      checkRange(bytes.length, offset, length);
      const edges = [...bad, ...zero].flat();
      for (let at = offset; at < offset + length; ) {
        const stop = Math.min(offset + length, ...edges.filter(edge => edge > at));
        if (within(bad, at)) yield { kind: 'bad', length: stop - at, why: 'damaged for the test' };
        else if (within(zero, at)) yield { kind: 'zero', length: stop - at };
        else yield { kind: 'data', length: stop - at, file, offset: at };
        at = stop;
      }
    },
    close: () => file.close(),
  };
  const engine = new Engine({ cacheBytes: 0, mapBytes: 2 ** 20, threads: 1 });
  const disk = new Disk(engine, source);
  return {
    size: bytes.length,
    native: disk.native,
    bytes: shown,
    unchanged: () => digest() === before,
    close() {
      disk.close();
      engine.close();
    },
  };
}

let names = 0;

/** A point of `size` bytes that is all zeros and takes nothing. */
export function emptyBase(size: number): {
  readonly size: number;
  readonly native: NativeReadable;
  close(): void;
} {
  const engine = new Engine({ cacheBytes: 0, mapBytes: 2 ** 20, threads: 1 });
  const disk = new Disk(engine, {
    size,
    sectorSize: 512,
    *extents(_offset, length) {
      if (length > 0) yield { kind: 'zero', length };
    },
    close() {},
  });
  return {
    size,
    native: disk.native,
    close() {
      disk.close();
      engine.close();
    },
  };
}

export const LAYER_ID = '89abcdef-0123-4567-89ab-cdef01234567';

/** A layer that is kept, in `file`: a path, or a file of a machine. */
export async function keptOn(
  base: { readonly native: NativeReadable },
  file: string | CowModelFile,
  { create = false, identity = 'this point' } = {},
): Promise<NativeOverlay> {
  const digest = createHash('sha256').update(identity).digest();
  const kept = { create, id: LAYER_ID, identity: digest, label: identity };
  if (typeof file !== 'string') return openOverlay({ base: base.native, file, kept });
  const fd = openSync(file, create ? 'w+' : 'r+');
  try {
    return await openOverlay({ base: base.native, file: fd, kept });
  } finally {
    closeSync(fd);
  }
}

export function randomBytesOf(seed: number, length: number): Buffer {
  const random = randomOf(seed);
  const bytes = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(random(2 ** 32 - 1), at);
  return bytes;
}

export { codeOf, randomOf, readAll } from '../cow/rig.js';
