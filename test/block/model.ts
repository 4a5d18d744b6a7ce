/**
 * The model that block tests compare with: files whose bytes are known, packed blocks whose content is known, random
 * lists of runs over them, and what those runs must read as. It knows nothing of how the project reads.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import type { Codec, Extent, LayerExtent } from '../../src/block/extent.js';
import { slice } from '../../src/block/extent.js';
import { ImageFile } from '../../src/block/file.js';
import { type BlockSource, checkRange, type Mapping, type SectorSize } from '../../src/block/source.js';
import { fc } from './property.js';

/** A byte of a model is 0 to 255, or one of these. */
export const BAD = 256;
export const ABSENT = 257;
export type Bytes = Uint16Array;

export interface PackedBlock {
  readonly codec: Codec;
  readonly offset: number;
  readonly packedLength: number;
  readonly bytes: Buffer;
}

/** Bytes that look random and are the same in every run (Marsaglia's xorshift). */
export function noise(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state & 0xff;
  }
  return bytes;
}

/** Bytes that pack well, yet differ from block to block. */
export function text(length: number, seed: number): Buffer {
  const words = noise(length, seed);
  for (let i = 0; i < length; i++) words[i] = i % 7 < 4 ? 97 + (i % 19) : 97 + (words[i]! % 12);
  return words;
}

/** `length` bytes of zstd frames for each content, made by QEMU; undefined where qemu-img is not installed. */
function zstdBlocks(folder: string, contents: readonly Buffer[], cluster: number): Buffer[] | undefined {
  const raw = join(folder, 'zstd.raw');
  const image = join(folder, 'zstd.qcow2');
  writeFileSync(raw, Buffer.concat(contents));
  const options = `compression_type=zstd,cluster_size=${cluster}`;
  try {
    execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-c', '-o', options, raw, image]);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  // docs/interop/qcow2.rst: the first L1 entry, its table, and the descriptor of each compressed cluster.
  const file = readFileSync(image);
  const l1 = Number(file.readBigUInt64BE(40));
  const l2 = Number(file.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
  const shift = BigInt(62 - (Math.log2(cluster) - 8));
  return contents.map((_, i) => {
    const entry = file.readBigUInt64BE(l2 + i * 8) & ((1n << 62n) - 1n);
    const offset = Number(entry & ((1n << shift) - 1n));
    const length = (Number(entry >> shift) + 1) * 512 - (offset % 512);
    return Buffer.from(file.subarray(offset, offset + length));
  });
}

export class Model {
  readonly folder: string;
  readonly plain: ImageFile;
  readonly plainBytes = noise(300_001, 7);
  readonly packed: ImageFile;
  readonly blocks: readonly PackedBlock[];

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'asof-model-'));
    writeFileSync(join(this.folder, 'plain'), this.plainBytes);
    const deflated = [512, 1000, 4096, 32_768, 65_536, 131_072].map((length, i) => {
      const bytes = text(length, i + 1);
      return { codec: 'deflate' as const, bytes, block: deflateRawSync(bytes) };
    });
    const contents = Array.from({ length: 4 }, (_, i) => text(32_768, 100 + i));
    const frames = zstdBlocks(this.folder, contents, 32_768);
    const zstd = (frames ?? []).map((block, i) => ({ codec: 'zstd' as const, bytes: contents[i]!, block }));
    let offset = 0;
    const parts: Buffer[] = [];
    this.blocks = [...deflated, ...zstd].map(({ codec, bytes, block }, i) => {
      // Some are followed by padding that counts as theirs, as qcow2's are.
      const padding = noise((i % 3) * 100, i + 50);
      const place = { codec, offset, packedLength: block.length + padding.length, bytes };
      parts.push(block, padding);
      offset += place.packedLength;
      return place;
    });
    writeFileSync(join(this.folder, 'packed'), Buffer.concat(parts));
    this.plain = ImageFile.open(join(this.folder, 'plain'));
    this.packed = ImageFile.open(join(this.folder, 'packed'));
  }

  /** One run from three random numbers below 2^32 (where, how much, which). */
  run(kind: LayerExtent['kind'], want: number, a: number, b: number): LayerExtent {
    switch (kind) {
      case 'data': {
        const offset = a % (this.plainBytes.length - 1);
        return {
          kind,
          length: Math.min(want, this.plainBytes.length - offset),
          file: this.plain,
          offset,
        };
      }
      case 'packed': {
        const block = this.blocks[b % this.blocks.length]!;
        const { codec, offset, packedLength } = block;
        const unpackedLength = block.bytes.length;
        const skip = want % 2 ? 0 : a % unpackedLength;
        const length = want % 3 ? Math.min(want, unpackedLength - skip) : unpackedLength - skip;
        return { kind, length, file: this.packed, offset, packedLength, codec, unpackedLength, skip };
      }
      case 'bad':
        return { kind, length: want, why: `reason ${b % 3}` };
      default:
        return { kind, length: want };
    }
  }

  /** What the runs read as. */
  render(runs: Iterable<LayerExtent>): Bytes {
    const parts = [...runs];
    const bytes = new Uint16Array(parts.reduce((sum, run) => sum + run.length, 0));
    let at = 0;
    for (const run of parts) {
      if (run.kind === 'data') bytes.set(this.plainBytes.subarray(run.offset, run.offset + run.length), at);
      else if (run.kind === 'packed')
        bytes.set(this.content(run).subarray(run.skip, run.skip + run.length), at);
      else if (run.kind !== 'zero') bytes.fill(run.kind === 'bad' ? BAD : ABSENT, at, at + run.length);
      at += run.length;
    }
    return bytes;
  }

  content(run: { readonly offset: number; readonly codec: Codec }): Buffer {
    return this.blocks.find(block => block.offset === run.offset && block.codec === run.codec)!.bytes;
  }

  close(): void {
    this.plain.close();
    this.packed.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const LENGTHS = fc.oneof(
  fc.integer({ min: 1, max: 2000 }),
  fc.integer({ min: 1, max: 40 }).map(n => n * 512),
  fc.integer({ min: 1, max: 3 }).map(n => n * 65_536),
);
const NUMBER = fc.nat(2 ** 31 - 1);

/** Lists of 1 to 12 runs of the given kinds. */
export function runLists<K extends LayerExtent['kind']>(
  model: Model,
  kinds: readonly K[],
): fc.Arbitrary<Extract<LayerExtent, { kind: K }>[]> {
  const one = fc
    .tuple(fc.constantFrom(...kinds), LENGTHS, NUMBER, NUMBER)
    .map(([kind, want, a, b]) => model.run(kind, want, a, b) as Extract<LayerExtent, { kind: K }>);
  return fc.array(one, { minLength: 1, maxLength: 12 });
}

/** A mapping that has exactly these runs. */
export function listed<E extends LayerExtent>(runs: readonly E[], onClose = () => {}): Mapping<E> {
  const size = runs.reduce((sum, run) => sum + run.length, 0);
  return {
    size,
    *extents(offset, length) {
      checkRange(size, offset, length);
      let start = 0;
      for (const run of runs) {
        const from = Math.max(offset, start);
        const to = Math.min(offset + length, start + run.length);
        if (from < to) yield slice(run, from - start, to - from);
        start += run.length;
      }
    },
    close: onClose,
  };
}

export function listedDisk(
  runs: readonly Extent[],
  sectorSize: SectorSize = 512,
  onClose = () => {},
): BlockSource {
  return { ...listed(runs, onClose), sectorSize };
}

/** A range within `size` from two fractions, now and then empty. */
export const RANGES = fc.tuple(
  fc.double({ min: 0, max: 1, noNaN: true }),
  fc.double({ min: 0, max: 1, noNaN: true }),
);
export function rangeIn(size: number, [a, b]: readonly [number, number]): { offset: number; length: number } {
  const offset = Math.floor(a * size);
  return { offset, length: Math.floor(b * b * (size - offset)) };
}
