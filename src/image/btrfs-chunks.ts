/**
 * Where a byte of btrfs lies on its device: its addresses are logical, and its chunk tree (btrfs inspect-internal dump-tree) says
 * which run of them is where. A profile that keeps copies has more than one place for each.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Run } from './manifest.js';
import type { Piece } from './swap-files.js';
import { options } from './used-space.js';

const run = promisify(execFile);
const LISTED = 2 ** 26;

export interface Chunk {
  readonly start: number;
  readonly length: number;
  /** Of each copy, on the one device. */
  readonly places: readonly number[];
}

/** Every place of the pieces, or why there is none to be told. */
export async function btrfsPlaces(device: string, pieces: readonly Piece[]): Promise<Run[] | string> {
  let listed: string;
  try {
    const args = ['inspect-internal', 'dump-tree', '-t', 'chunk', device];
    listed = (await run('btrfs', args, options(LISTED))).stdout;
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === 'ENOENT') return 'btrfs is not installed, which comes with btrfs-progs';
    return `its chunks cannot be told: ${String(error).slice(0, 200)}`;
  }
  const chunks = parseChunks(listed);
  if (typeof chunks === 'string') return chunks;
  const runs: Run[] = [];
  for (const { place, length } of pieces) {
    let [at, left] = [place, length];
    while (left > 0) {
      const chunk = chunks.find(({ start, length }) => start <= at && at < start + length);
      if (!chunk) return 'a piece of it lies in no chunk';
      const bytes = Math.min(left, chunk.start + chunk.length - at);
      for (const one of chunk.places) runs.push([one + at - chunk.start, bytes]);
      at += bytes;
      left -= bytes;
    }
  }
  return runs;
}

/** Of dump-tree: only chunks that lie on the one device as they are, once or in copies. */
export function parseChunks(listed: string): Chunk[] | string {
  const chunks: Chunk[] = [];
  const items = listed.split(/^\titem \d+ key /m).slice(1);
  for (const item of items) {
    const start = /^\(FIRST_CHUNK_TREE CHUNK_ITEM (\d+)\)/.exec(item)?.[1];
    if (start === undefined) continue;
    const [, length, type] = /length (\d+) owner \d+ stripe_len \d+ type (\S+)/.exec(item) ?? [];
    const places = [...item.matchAll(/stripe \d+ devid (\d+) offset (\d+)/g)];
    const stripes = /num_stripes (\d+)/.exec(item)?.[1];
    if (length === undefined || places.length === 0 || places.length !== Number(stripes)) {
      return 'its chunks cannot be told';
    }
    // What is laid in stripes has no one place for a run.
    if (!/^[A-Z]+(\|[A-Z]+)*(\|(DUP|single))?$/.test(type!) || /RAID/.test(type!))
      return `a chunk of it is ${type}`;
    chunks.push({
      start: Number(start),
      length: Number(length),
      places: places.map(([, , offset]) => Number(offset)),
    });
  }
  return chunks.length > 0 ? chunks : 'its chunks cannot be told';
}
