/**
 * The snapshot table of a qcow2 image.
 *
 * Specification: QEMU, docs/interop/qcow2.rst, "Snapshots". The table is walked within the file only; where an
 * entry cannot be believed the walk ends, and what was read before it stands.
 */
import type { ImageFile } from '../block/file.js';
import type { Header } from './qcow2-header.js';

/** Limits of QEMU (block/qcow2.h): entries, bytes of extra data in one, bytes of the table. */
const MOST = 65536;
const MOST_EXTRA = 1024;
const MOST_BYTES = 64 * 2 ** 20;

const FIXED = 40;

export interface SnapshotEntry {
  readonly id: string;
  readonly name: string;
  readonly time: Date;
  readonly size: number;
  readonly vmStateSize: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** Bytes of extra data; a version 3 image has 16 at least. */
  readonly extra: number;
}

export interface SnapshotTable {
  readonly entries: readonly SnapshotEntry[];
  /** Bytes of the file that the entries occupy. */
  readonly length: number;
  /** Why the table ends before its announced number of entries. */
  readonly trouble: string | undefined;
}

/** Throws IO. */
export function parseSnapshots(file: ImageFile, header: Header): SnapshotTable {
  const { snapshotsOffset: start, snapshotCount: count, clusterSize } = header;
  const entries: SnapshotEntry[] = [];
  let at = start;
  const table = (trouble?: string): SnapshotTable => ({
    entries,
    length: at - start,
    trouble:
      trouble &&
      `the snapshot table has ${count} entries, of which ${entries.length} can be read: ${trouble}`,
  });
  if (count === 0) return table();
  if (count > MOST) return table(`more than ${MOST} are not supported`);
  if (start < clusterSize || start % clusterSize !== 0) {
    return table(`it does not stand at a cluster of its own, but at byte ${start}`);
  }
  while (entries.length < count) {
    const fixed = file.read(at, FIXED);
    if (fixed.length < FIXED) return table('the file ends within it');
    const extra = fixed.readUInt32BE(36);
    if (extra > MOST_EXTRA)
      return table(`an entry claims ${extra} bytes of extra data, more than ${MOST_EXTRA}`);
    const idLength = fixed.readUInt16BE(12);
    const nameLength = fixed.readUInt16BE(14);
    const rest = file.read(at + FIXED, extra + idLength + nameLength);
    if (rest.length < extra + idLength + nameLength) return table('the file ends within it');
    const l1Offset = fixed.readBigUInt64BE(0);
    const size = extra >= 16 ? rest.readBigUInt64BE(8) : BigInt(header.size);
    const vmStateSize = extra >= 8 ? rest.readBigUInt64BE(0) : BigInt(fixed.readUInt32BE(32));
    const most = BigInt(Number.MAX_SAFE_INTEGER);
    if (l1Offset > most || size > most) return table(`an entry has an offset or a size beyond 2^53`);
    entries.push({
      id: rest.toString('utf8', extra, extra + idLength),
      name: rest.toString('utf8', extra + idLength, extra + idLength + nameLength),
      time: new Date(fixed.readUInt32BE(16) * 1000 + Math.floor(fixed.readUInt32BE(20) / 1e6)),
      size: Number(size),
      vmStateSize: Number(vmStateSize),
      l1Offset: Number(l1Offset),
      l1Entries: fixed.readUInt32BE(8),
      extra,
    });
    at += Math.ceil((FIXED + extra + idLength + nameLength) / 8) * 8;
    if (at - start > MOST_BYTES) return table(`it is longer than ${MOST_BYTES} bytes`);
  }
  return table();
}
