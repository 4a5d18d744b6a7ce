/**
 * Where two points differ. Runs that live at the same place are equal without a read; all others are read and
 * compared by the sector.
 */
import type { BlockSource } from '../block/source.js';

/** A disk that can be read, such as `Disk`. */
export interface Readable {
  readonly source: BlockSource;
  read(offset: number, length: number): Promise<Buffer>;
}

/**
 * A run in which the two disks differ, in bytes. `different`: bytes differ. `unreadable`: one of them cannot be
 * vouched for. `only`: it lies behind the end of the other disk.
 */
export interface Difference {
  readonly kind: 'different' | 'unreadable' | 'only-a' | 'only-b';
  readonly offset: number;
  readonly length: number;
  /** Of kind `unreadable`. */
  readonly why?: string | undefined;
}

/** The runs in which `a` and `b` differ, in order, joined. */
// biome-ignore lint/correctness/useYield: the body follows
export async function* compare(_a: Readable, _b: Readable): AsyncGenerator<Difference, void, undefined> {
  throw new Error('compare is being built');
}
