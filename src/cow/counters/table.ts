/**
 * What a file system itself notes of being written to: counters, times and checksums of its superblock. Two readings that
 * differ tell that somebody wrote in between; equal ones are no proof (docs/tracking.md).
 *
 * A new file system is one file and one line here.
 */
import type { ReadAt } from '../partitions.js';
import { btrfs } from './btrfs.js';
import { ext } from './ext.js';
import { ntfs } from './ntfs.js';
import { xfs } from './xfs.js';

/** Field names of the specification, and their values as text. */
export type CounterValues = Readonly<Record<string, string>>;

export interface CounterReader {
  readonly name: string;
  /** The counters of the file system at the start of what `read` reads; undefined where it is another one. */
  readonly read: (read: ReadAt) => CounterValues | undefined;
}

export const READERS: readonly CounterReader[] = [ext, xfs, btrfs, ntfs];

export interface FileSystemCounters {
  /** Bytes from the start of the disk. */
  readonly start: number;
  readonly fileSystem: string;
  readonly values: CounterValues;
}

/** The first reader that knows what lies at `start`. Metadata that makes no sense is not that file system's. */
export function countersAt(read: ReadAt, start: number): FileSystemCounters | undefined {
  const from: ReadAt = (offset, length) => {
    const sensible = Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && length <= 2 ** 24;
    return sensible ? read(start + offset, length) : Buffer.alloc(0);
  };
  for (const reader of READERS) {
    const values = reader.read(from);
    if (values) return { start, fileSystem: reader.name, values };
  }
  return undefined;
}
