/**
 * Where two points differ. Runs that live at the same place are equal without a read, zeros equal zeros; all others
 * are read and compared by the sector, so that the answer is about bytes and not about how they are stored.
 */
import type { Extent } from '../block/extent.js';
import type { BlockSource } from '../block/source.js';
import { AsofError } from '../errors.js';

/** A disk that can be read, such as `Disk`. */
export interface Readable {
  readonly source: BlockSource;
  read(offset: number, length: number): Promise<Buffer>;
}

/**
 * A run of bytes in which the two disks differ, or may. `different`: in every sector of it at least one byte
 * differs. `unreadable`: one of them cannot be vouched for. `only-a`, `only-b`: behind the end of the other.
 */
export interface Difference {
  readonly kind: 'different' | 'unreadable' | 'only-a' | 'only-b';
  readonly offset: number;
  readonly length: number;
  /** Of kind `unreadable`: why its first bytes are. */
  readonly why?: string | undefined;
}

const SECTOR = 512;

/** Bytes that are read at once; a multiple of the sector. */
const PART = 2 ** 20;

/** The runs in which `a` and `b` differ, in order, joined. Throws what reading throws, except DAMAGED. */
export async function* compare(a: Readable, b: Readable): AsyncGenerator<Difference, void, undefined> {
  let last: Difference | undefined;
  for await (const next of differences(a, b)) {
    if (
      last &&
      last.kind === next.kind &&
      last.why === next.why &&
      last.offset + last.length === next.offset
    ) {
      last = { ...last, length: last.length + next.length };
      continue;
    }
    if (last) yield last;
    last = next;
  }
  if (last) yield last;
}

async function* differences(a: Readable, b: Readable): AsyncGenerator<Difference, void, undefined> {
  const both = Math.min(a.source.size, b.source.size);
  for (const { offset, length, why } of suspects(a.source, b.source, both)) {
    if (why === undefined) yield* compareBytes(a, b, offset, length);
    else yield { kind: 'unreadable', offset, length, why };
  }
  const rest = Math.max(a.source.size, b.source.size) - both;
  if (rest > 0) yield { kind: a.source.size > both ? 'only-a' : 'only-b', offset: both, length: rest };
}

interface Suspect {
  readonly offset: number;
  readonly length: number;
  /** One of the two says itself that it cannot be read. */
  readonly why?: string | undefined;
}

/** The runs of [0, size) that do not live at one place in both, widened to sectors and joined up to a part. */
function* suspects(a: BlockSource, b: BlockSource, size: number): Generator<Suspect, void, undefined> {
  let start = 0;
  let end = 0;
  for (const { offset, length, why } of unlike(a, b, size)) {
    const from = Math.max(end, offset - (offset % SECTOR));
    const to = Math.min(size, Math.ceil((offset + length) / SECTOR) * SECTOR);
    if (to <= from) continue;
    if (from > end || why !== undefined) {
      if (end > start) yield { offset: start, length: end - start };
      start = from;
    }
    end = to;
    if (why !== undefined) {
      yield { offset: from, length: to - from, why };
      start = to;
    }
    while (end - start >= PART) {
      yield { offset: start, length: PART };
      start += PART;
    }
  }
  if (end > start) yield { offset: start, length: end - start };
}

function* unlike(a: BlockSource, b: BlockSource, size: number): Generator<Suspect, void, undefined> {
  const left = walker(a, size);
  const right = walker(b, size);
  for (let offset = 0; offset < size; ) {
    const [one, other] = [left(offset), right(offset)];
    const length = Math.min(one.left, other.left);
    const bad = one.run.kind === 'bad' ? one.run : other.run.kind === 'bad' ? other.run : undefined;
    if (bad) yield { offset, length, why: bad.why };
    else if (!sameBytes(one, other)) yield { offset, length };
    offset += length;
  }
}

interface Stand {
  readonly run: Extent;
  /** Bytes of the run before the offset, and from it on. */
  readonly skip: number;
  readonly left: number;
}

/** The run at an offset, for offsets that never go back. */
function walker(source: BlockSource, size: number): (offset: number) => Stand {
  const runs = source.extents(0, size)[Symbol.iterator]();
  let start = 0;
  let run: Extent | undefined;
  return offset => {
    while (!run || offset >= start + run.length) {
      start += run?.length ?? 0;
      const next = runs.next();
      if (next.done) throw new Error(`a disk of ${source.size} bytes gave no run at ${start}`);
      run = next.value;
    }
    return { run, skip: offset - start, left: run.length - (offset - start) };
  };
}

/** Both say that the bytes are the same ones, wherever they are. */
function sameBytes(a: Stand, b: Stand): boolean {
  if (a.run.kind === 'zero') return b.run.kind === 'zero';
  if (a.run.kind === 'data' && b.run.kind === 'data') {
    return a.run.file === b.run.file && a.run.offset + a.skip === b.run.offset + b.skip;
  }
  if (a.run.kind === 'packed' && b.run.kind === 'packed') {
    return (
      a.run.file === b.run.file &&
      a.run.offset === b.run.offset &&
      a.run.packedLength === b.run.packedLength &&
      a.run.codec === b.run.codec &&
      a.run.skip + a.skip === b.run.skip + b.skip
    );
  }
  return false;
}

/**
 * Compares a run of at most a part. A packed block that both share is never read, so that damage in it is the
 * doctor's to find; damage in what is read is told by the sector.
 */
async function* compareBytes(
  a: Readable,
  b: Readable,
  offset: number,
  length: number,
): AsyncGenerator<Difference, void, undefined> {
  const [left, right] = await Promise.all([readOrWhy(a, offset, length), readOrWhy(b, offset, length)]);
  if (typeof left === 'string' || typeof right === 'string') {
    if (length <= SECTOR) {
      yield { kind: 'unreadable', offset, length, why: typeof left === 'string' ? left : String(right) };
      return;
    }
    const half = Math.ceil(length / 2 / SECTOR) * SECTOR;
    yield* compareBytes(a, b, offset, half);
    yield* compareBytes(a, b, offset + half, length - half);
    return;
  }
  if (left.equals(right)) return;
  for (let at = 0; at < length; at += SECTOR) {
    const end = Math.min(length, at + SECTOR);
    if (left.compare(right, at, end, at, end) !== 0) {
      yield { kind: 'different', offset: offset + at, length: end - at };
    }
  }
}

async function readOrWhy(disk: Readable, offset: number, length: number): Promise<Buffer | string> {
  try {
    return await disk.read(offset, length);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'DAMAGED') return error.message;
    throw error;
  }
}
