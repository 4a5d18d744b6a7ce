/**
 * A reader of block sources that shares nothing with the engine: pread, Node's own inflate, and the `zstd` command.
 * Slow and plain on purpose. What cannot be unpacked is bad, as it is for the engine.
 */
import { spawnSync } from 'node:child_process';
import { readSync } from 'node:fs';
import { inflateRawSync, inflateSync, constants as zlib } from 'node:zlib';
import { CODECS, type PackedExtent } from '../../src/block/extent.js';
import type { BlockSource } from '../../src/block/source.js';
import { loadAddon } from '../../src/native.js';

export interface Run {
  readonly offset: number;
  readonly length: number;
}

export interface Content {
  /** Bad runs hold 0xdb. */
  readonly bytes: Buffer;
  readonly bad: readonly Run[];
  readonly reasons: ReadonlySet<string>;
}

/** All bytes of a source, which must be small. */
export function readAll(source: BlockSource): Content {
  const bytes = Buffer.alloc(source.size, 0xdb);
  const bad: Run[] = [];
  const reasons = new Set<string>();
  const spoil = (offset: number, length: number, why: string) => {
    reasons.add(why);
    const last = bad.at(-1);
    if (last && last.offset + last.length === offset) {
      bad[bad.length - 1] = { offset: last.offset, length: last.length + length };
    } else bad.push({ offset, length });
  };
  const runs = [...source.extents(0, source.size)];
  const unpacked = unpackAll(runs.filter(run => run.kind === 'packed'));
  let offset = 0;
  for (const run of runs) {
    if (run.length <= 0) throw new Error('an empty run');
    const into = bytes.subarray(offset, offset + run.length);
    if (into.length !== run.length) throw new Error('a run beyond the end of the disk');
    if (run.kind === 'zero') into.fill(0);
    else if (run.kind === 'bad') spoil(offset, run.length, run.why);
    else if (run.kind === 'data') {
      if (!pread(run.file.fd, into, run.offset)) throw new Error('a data run beyond the end of its file');
    } else {
      const block = unpacked.get(keyOf(run));
      if (block) block.copy(into, 0, run.skip, run.skip + run.length);
      else spoil(offset, run.length, 'cannot be unpacked');
    }
    offset += run.length;
  }
  if (offset !== source.size) throw new Error(`the runs cover ${offset} of ${source.size} bytes`);
  return { bytes, bad, reasons };
}

function pread(fd: number, into: Uint8Array, offset: number): boolean {
  for (let done = 0; done < into.length; ) {
    const n = readSync(fd, into, done, into.length - done, offset + done);
    if (n === 0) return false;
    done += n;
  }
  return true;
}

const keyOf = (run: PackedExtent) =>
  `${run.file.fd}:${run.offset}:${run.packedLength}:${run.codec}:${run.unpackedLength}`;

function unpackAll(runs: readonly PackedExtent[]): Map<string, Buffer> {
  const blocks = new Map<string, Buffer>();
  const frames: { key: string; frame: Buffer; length: number }[] = [];
  const seen = new Set<string>();
  for (const run of runs) {
    const key = keyOf(run);
    if (seen.has(key)) continue;
    seen.add(key);
    const packed = Buffer.alloc(run.packedLength);
    if (!pread(run.file.fd, packed, run.offset)) throw new Error('a packed run beyond the end of its file');
    if (run.codec === 'zstd') frames.push({ key, frame: firstFrame(packed), length: run.unpackedLength });
    else {
      const block = unpackOne(run, packed);
      if (block) blocks.set(key, block);
    }
  }
  if (frames.length === 0) return blocks;
  // One process for all; where one frame is broken, one for each.
  const total = frames.reduce((sum, { length }) => sum + length, 0);
  const all = zstd(Buffer.concat(frames.map(({ frame }) => frame)), total);
  let at = 0;
  for (const { key, frame, length } of frames) {
    const block = all.length === total ? all.subarray(at, at + length) : zstd(frame, length);
    if (block.length === length) blocks.set(key, block);
    at += length;
  }
  return blocks;
}

function unpackOne({ codec, unpackedLength }: PackedExtent, packed: Buffer): Buffer | undefined {
  if (codec === 'deflate') return inflate(packed, unpackedLength);
  if (codec === 'adler32') {
    const block = packed.subarray(0, unpackedLength);
    return packed.readUInt32LE(unpackedLength) === adler32(block) ? block : undefined;
  }
  if (codec === 'pattern') return Buffer.alloc(unpackedLength, packed);
  if (codec === 'bzip2' || codec === 'xz') return unpackBy(codec, packed, unpackedLength);
  if (codec === 'lz4') return unlz4(packed, unpackedLength);
  if (codec === 'snappy') return unsnappy(packed, unpackedLength);
  if (codec === 'adc') return unadc(packed, unpackedLength);
  // The engine's own: nothing here reads it chunk by chunk. Its oracle is 7-Zip (dmg.test.ts).
  if (codec === 'lzfse') return loadAddon().unpack(CODECS.indexOf(codec), packed, unpackedLength);
  try {
    // Node compares the checksum behind the stream, and leaves alone what follows.
    const block = inflateSync(packed, { maxOutputLength: unpackedLength + 65536 });
    return block.length === unpackedLength ? block : undefined;
  } catch {
    return undefined;
  }
}

const unpackedBy = new Map<string, Buffer | undefined>();

/** One process a block, so that what was unpacked before is kept. */
function unpackBy(program: 'bzip2' | 'xz', packed: Buffer, length: number): Buffer | undefined {
  const key = `${program}:${length}:${packed.toString('latin1')}`;
  if (!unpackedBy.has(key)) {
    const { stdout, status } = spawnSync(program, ['-dcq'], { input: packed, maxBuffer: 2 ** 26 });
    // 2: what follows the stream is none.
    const fits = (status === 0 || status === 2) && stdout.length === length;
    unpackedBy.set(key, fits ? stdout : undefined);
  }
  return unpackedBy.get(key);
}

function unadc(packed: Buffer, length: number): Buffer | undefined {
  const out: number[] = [];
  for (let at = 0; at < packed.length; ) {
    const op = packed[at]!;
    if (op >= 0x80) {
      for (let i = 0; i < op - 0x7f; i++) out.push(packed[at + 1 + i] ?? -1);
      at += op - 0x7f + 1;
      continue;
    }
    const long = op >= 0x40;
    const distance = long
      ? packed.readUInt16BE(Math.min(at + 1, packed.length - 2))
      : ((op & 3) << 8) | (packed[at + 1] ?? 0);
    for (let i = long ? (op & 0x3f) + 4 : (op >> 2) + 3; i > 0; i--)
      out.push(out[out.length - distance - 1] ?? -1);
    at += long ? 3 : 2;
    if (at > packed.length) return undefined;
  }
  return out.length === length && !out.includes(-1) ? Buffer.from(out) : undefined;
}

/** Appends `length` bytes from `distance` before; false where there are none. */
function repeat(out: number[], distance: number, length: number): boolean {
  if (distance === 0 || distance > out.length) return false;
  for (let i = 0; i < length; i++) out.push(out[out.length - distance]!);
  return true;
}

/** lz4_Block_format.md. */
function unlz4(packed: Buffer, wanted: number): Buffer | undefined {
  const out: number[] = [];
  let at = 0;
  const long = (value: number) => {
    if (value < 15) return value;
    for (let byte = 255; byte === 255; value += byte) byte = packed[at++] ?? 0;
    return value;
  };
  while (at < packed.length && out.length <= wanted) {
    const token = packed[at++]!;
    const literals = long(token >> 4);
    if (at + literals > packed.length) return undefined;
    out.push(...packed.subarray(at, at + literals));
    at += literals;
    if (at >= packed.length) break;
    const distance = packed[at]! | ((packed[at + 1] ?? 0) << 8);
    at += 2;
    if (!repeat(out, distance, long(token & 15) + 4)) return undefined;
  }
  return out.length === wanted ? Buffer.from(out) : undefined;
}

/** format_description.txt of Snappy. */
function unsnappy(packed: Buffer, wanted: number): Buffer | undefined {
  const out: number[] = [];
  let at = 0;
  let length = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = packed[at++];
    if (byte === undefined || shift > 28) return undefined;
    length += (byte & 127) * 2 ** shift;
    if (byte < 128) break;
  }
  if (length !== wanted) return undefined;
  while (at < packed.length && out.length <= wanted) {
    const tag = packed[at++]!;
    const kind = tag & 3;
    if (kind === 0) {
      const extra = Math.max(0, (tag >> 2) - 59);
      if (at + extra > packed.length) return undefined;
      const count = extra > 0 ? packed.readUIntLE(at, extra) + 1 : (tag >> 2) + 1;
      at += extra;
      if (at + count > packed.length) return undefined;
      for (let i = 0; i < count; i++) out.push(packed[at + i]!);
      at += count;
      continue;
    }
    const size = [0, 1, 2, 4][kind]!;
    if (at + size > packed.length) return undefined;
    const low = packed.readUIntLE(at, size);
    at += size;
    const found = kind === 1 ? [((tag >> 5) << 8) | low, ((tag >> 2) & 7) + 4] : [low, (tag >> 2) + 1];
    if (!repeat(out, found[0]!, found[1]!)) return undefined;
  }
  return out.length === wanted ? Buffer.from(out) : undefined;
}

/** RFC 1950, word for word. */
export function adler32(bytes: Uint8Array): number {
  let a = 1;
  let b = 0;
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return b * 65536 + a;
}

function inflate(packed: Buffer, length: number): Buffer | undefined {
  try {
    // The padding behind a block is not its own, and a stream may be cut once the block is full.
    const block = inflateRawSync(packed, { finishFlush: zlib.Z_SYNC_FLUSH, maxOutputLength: length + 65536 });
    return block.length >= length ? block.subarray(0, length) : undefined;
  } catch {
    return undefined;
  }
}

function zstd(frames: Buffer, length: number): Buffer {
  const { stdout } = spawnSync('zstd', ['-dcq', '-'], { input: frames, maxBuffer: length + 2 ** 20 });
  return stdout ?? Buffer.alloc(0);
}

/** The first zstd frame of `bytes` (RFC 8878, 3.1.1) without what follows; all of it where it is none. */
function firstFrame(bytes: Buffer): Buffer {
  if (bytes.length < 6 || bytes.readUInt32LE(0) !== 0xfd2fb528) return bytes;
  const descriptor = bytes[4]!;
  const single = (descriptor >> 5) & 1;
  const contentSize = [single, 2, 4, 8][descriptor >> 6]!;
  let at = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]! + contentSize;
  for (;;) {
    if (at + 3 > bytes.length) return bytes;
    const block = bytes.readUIntLE(at, 3);
    const type = (block >> 1) & 3;
    at += 3 + (type === 1 ? 1 : block >> 3);
    if (block & 1) break;
  }
  return bytes.subarray(0, at + (descriptor & 4 ? 4 : 0));
}
