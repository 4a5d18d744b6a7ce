/**
 * The manifest of a point: what it is, what it stands on, how it came about. It is the last file of a point to appear;
 * a point without one does not exist. Schema: docs/formats.md, "The manifest".
 */
import { AsofError } from '../errors.js';
import { readSealed } from './sealed.js';

export const IMAGE_KINDS = ['full', 'incremental', 'differential'] as const;
export type ImageKind = (typeof IMAGE_KINDS)[number];

/** `all`: everything in use was read. `tracked`: only what a tracker named. `compared`: all was read, what differs stored. */
export type Method = 'all' | 'tracked' | 'compared';

/** What was known when the moment was taken; `quiet` is a file that nobody wrote to meanwhile. */
export type Consistency = 'application' | 'filesystem' | 'quiet' | 'crash' | 'unknown';

/** Offset and length, bytes. */
export type Run = readonly [number, number];

/** Swap that was left out. */
export interface Excluded {
  readonly kind: 'swap-partition' | 'swap-file' | 'windows-file';
  /** Its path in its file system; of a swap partition its label, which may be ''. */
  readonly name: string;
  /** undefined where the disk has no partitions. */
  readonly partition?: number | undefined;
  /** Of the swap, where it has one. */
  readonly uuid?: string | undefined;
  /** In order, apart; bytes of the disk. */
  readonly runs: readonly Run[];
}

export interface Manifest {
  readonly id: string;
  readonly volume: {
    readonly id: string;
    readonly name: string;
    /** What it was read from: a path, or the volume's origin. */
    readonly source: string;
  };
  /** ISO 8601. */
  readonly time: string;
  readonly label: string;
  readonly consistency: Consistency;
  readonly kind: ImageKind;
  /** Why it is of that kind, where another was asked for or nothing was. */
  readonly kindWhy: string;
  readonly base: {
    readonly id: string;
    readonly root: string;
    readonly choice: 'previous' | 'full' | 'chosen';
  } | null;
  readonly method: Method;
  readonly methodWhy: string;
  /** The id of the snapshot that it was read from: what later changes are asked for relative to. */
  readonly snapshot: string | null;
  readonly disk: { readonly size: number; readonly sectorSize: 512 | 4096; readonly clusterSize: number };
  /** The root of its hash tree: the identity of its content. */
  readonly root: string;
  /** SHA-256 of the disk's bytes, where all of them were read. */
  readonly sha256: string | null;
  readonly image: {
    readonly file: string;
    readonly bytes: number;
    readonly compression: string;
    /** Clusters of each kind. */
    readonly plain: number;
    readonly packed: number;
    readonly zero: number;
    /** SHA-256 of its metadata: qcow2-metadata.ts. */
    readonly metadata: string;
  };
  readonly tree: { readonly file: string; readonly bytes: number };
  /** How the sectors in use were found. */
  readonly allocation: 'holes' | 'all' | 'map';
  /** Which maps of used space there were, or why there was none. */
  readonly allocationWhy?: string | undefined;
  /** What file systems do not use: zeros in the image. null where nothing was left out by a map. */
  readonly unused?: {
    readonly file: string;
    readonly runs: number;
    /** Of the disk. */
    readonly bytes: number;
    /** SHA-256 of the file. */
    readonly sha256: string;
  } | null;
  /** Swap that was left out by wish: zeros in the image, without its first page. */
  readonly excluded?: readonly Excluded[];
  /** Swap that was found and kept, and why; sentences. */
  readonly excludedNot?: readonly string[];
  /** Bytes that were read of the source. */
  readonly read: number;
  /** Sectors of the disk that could not be read; zeros in the image, errors in a mount. In order, apart. */
  readonly bad: { readonly runs: readonly Run[]; readonly file: string | null };
  /** The stored image was read back and its root was the same. */
  readonly proof: { readonly root: string; readonly time: string };
  readonly milliseconds: number;
}

export const MANIFEST_KIND = 'point';

/** Throws NOT_FOUND, IO or HISTORY_DAMAGED. */
export function readManifest(path: string): Manifest {
  const body = readSealed<Manifest>(path, MANIFEST_KIND);
  const why = faultOf(body);
  if (why) throw new AsofError('HISTORY_DAMAGED', `${path}: ${why}`);
  return body;
}

/** The seal tells damage; what a newer or a careless writer may have left out is told here. Names lead nowhere else. */
function faultOf(body: Manifest): string | undefined {
  if (!/^[0-9a-f-]{36}$/.test(String(body.id))) return 'it has no id';
  for (const name of [body.image?.file, body.tree?.file]) {
    if (typeof name !== 'string' || name === '' || name.includes('/') || name.startsWith('.')) {
      return `${JSON.stringify(name)} is no name of a file beside it`;
    }
  }
  if (!Number.isSafeInteger(body.disk?.size) || body.disk.size <= 0) return 'it has no size';
  if (!/^[0-9a-f]{64}$/.test(String(body.root))) return 'it has no root';
  if (Number.isNaN(Date.parse(body.time))) return 'it has no time';
  const { unused, excluded } = body;
  if (unused && (typeof unused.file !== 'string' || !/^[^./][^/]*$/.test(unused.file))) {
    return `${JSON.stringify(unused.file)} is no name of a file beside it`;
  }
  const isRun = (run: unknown) => Array.isArray(run) && run.length === 2 && run.every(Number.isSafeInteger);
  if (excluded?.some(({ runs }) => !Array.isArray(runs) || !runs.every(isRun))) {
    return 'what it left out is no list of runs';
  }
  if (!Array.isArray(body.bad?.runs)) return 'it has no list of bad sectors';
  return undefined;
}

/** The same runs in order, neighbours and overlaps joined. */
export function joinRuns(runs: readonly Run[]): Run[] {
  const sorted = [...runs].sort((a, b) => a[0] - b[0]);
  const out: [number, number][] = [];
  for (const [offset, length] of sorted) {
    const last = out.at(-1);
    if (last && offset <= last[0] + last[1]) last[1] = Math.max(last[1], offset + length - last[0]);
    else out.push([offset, length]);
  }
  return out;
}
