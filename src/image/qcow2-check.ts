/**
 * The doctor for one qcow2 image, from its metadata alone: what of the disk cannot be read right, what breaks a
 * rule, and what the refcounts say against what is used. Counts are those of `qemu-img check`: kinds `entry`,
 * `reference`, `refcount` and `copied` are its corruptions.
 */
import { joined, type LayerExtent } from '../block/extent.js';
import type { ImageFile } from '../block/file.js';
import type { Layer } from '../block/source.js';
import { AsofError } from '../errors.js';
import type { Finding } from './finding.js';
import { MOST_CLUSTERS, References, statedRefcounts, USES } from './qcow2-count.js';
import { CORRUPT, DIRTY, type Header } from './qcow2-header.js';
import type { Geometry } from './qcow2-map.js';
import type { SnapshotTable } from './qcow2-snapshots.js';

export interface Examined {
  readonly file: ImageFile;
  readonly header: Header;
  readonly table: SnapshotTable;
  readonly geometry: Geometry;
  readonly troubles: readonly string[];
  readonly layer: Layer;
  readonly snapshots: readonly { readonly id: string; readonly layer: Layer }[];
}

/** Runs that are walked, of all states of the disk together: tables that point to one another can make any number. */
const MOST_RUNS = 2 ** 26;

/** Runs of one state for which no entry of a second-level table stands: holes of the first level. */
const FEW_RUNS = 2 ** 20;

/** Bytes of the L1 table that are read at once. */
const L1_PART = 65536;

type Told = Omit<Finding, 'member' | 'count'> & { readonly count?: number };

export function* checkImage(image: Examined): Generator<Finding, void, undefined> {
  const member = image.file.path;
  try {
    for (const told of examine(image)) yield { count: 1, ...told, member };
  } catch (error) {
    if (!(error instanceof AsofError) || error.code !== 'IO') throw error;
    yield { severity: 'defect', kind: 'image', member, what: error.message, count: 1 };
  }
}

function* examine(image: Examined): Generator<Told, void, undefined> {
  const { header, troubles, layer, snapshots } = image;
  for (const what of troubles) yield { severity: 'defect', kind: 'image', what };
  if ((header.incompatible & DIRTY) !== 0n && (header.incompatible & CORRUPT) === 0n) {
    const what = 'the image is marked as dirty: it was not closed, and its refcounts may lag behind';
    yield { severity: 'note', kind: 'image', what };
  }
  yield* tables(image);
  const budget: Budget = { each: mostRuns(image), all: MOST_RUNS };
  yield* ranges(layer, undefined, budget);
  // Snapshots that share a table share its faults.
  const seen = new Set<string>();
  for (const [i, snapshot] of snapshots.entries()) {
    const { l1Offset, l1Entries, size, extra } = image.table.entries[i]!;
    if (header.version === 3 && extra < 16) {
      const what = 'the snapshot does not state the size of its disk, as version 3 demands';
      yield { severity: 'defect', kind: 'entry', what, snapshot: snapshot.id };
    }
    const key = `${l1Offset}:${l1Entries}:${size}`;
    if (!seen.has(key)) yield* ranges(snapshot.layer, snapshot.id, budget);
    seen.add(key);
  }
  yield* counts(image);
}

/** The tables that the header names, as wholes. */
function* tables({ file, header, table }: Examined): Generator<Told, void, undefined> {
  const { clusterSize, refcountTableOffset: offset, refcountTableClusters: clusters } = header;
  const defect = (what: string): Told => ({ severity: 'defect', kind: 'table', what });
  const names = (name: string, start: number, length: number): string | undefined => {
    if (start % clusterSize !== 0) return `${name} at byte ${start} does not stand at a cluster boundary`;
    if (start + length <= file.size) return undefined;
    return `${name} of ${length} bytes at byte ${start} goes beyond the end of the file, byte ${file.size}`;
  };
  if (clusters === 0) yield defect('there is no refcount table');
  const found = [
    names('the refcount table', offset, clusters * clusterSize),
    names('the L1 table', header.l1Offset, header.l1Entries * 8),
    ...table.entries.map(entry =>
      names(`the L1 table of snapshot ${entry.id}`, entry.l1Offset, entry.l1Entries * 8),
    ),
  ];
  for (const what of found) if (what !== undefined) yield defect(what);
}

/** Runs that may still be walked: of each state, and of all that are to come. */
interface Budget {
  readonly each: number;
  all: number;
}

/** A sound state has no more runs than its file has room for second-level entries, or for their bitmaps. */
function mostRuns({ file, header }: Examined): number {
  return FEW_RUNS + Math.ceil(header.extendedL2 ? file.size * 2 : file.size / 8);
}

/** The runs of a state of the disk that cannot be vouched for. */
function* ranges(
  layer: Layer,
  snapshot: string | undefined,
  budget: Budget,
): Generator<Told, void, undefined> {
  let offset = 0;
  for (const run of joined(firstRuns(layer, budget))) {
    if (run.kind === 'bad') {
      yield {
        severity: 'defect',
        kind: 'range',
        what: run.why,
        range: { offset, length: run.length },
        snapshot,
      };
    }
    offset += run.length;
  }
  if (offset < layer.size) {
    const what = `the disk has more runs than are looked at: it is not examined from byte ${offset} on`;
    yield { severity: 'note', kind: 'range', what, snapshot };
  }
}

/** Not joined yet: runs that join may be endless, too. */
function* firstRuns(layer: Layer, budget: Budget): Generator<LayerExtent, void, undefined> {
  let left = Math.min(budget.each, budget.all);
  budget.all -= left;
  try {
    for (const run of layer.extents(0, layer.size)) {
      if (left === 0) return;
      left--;
      yield run;
    }
  } finally {
    budget.all += left;
  }
}

function* counts({ file, header, table, geometry }: Examined): Generator<Told, void, undefined> {
  const clusters = Math.ceil(file.size / header.clusterSize);
  if (clusters > MOST_CLUSTERS) {
    const what = `refcounts are not checked: the file has ${clusters} clusters, more than ${MOST_CLUSTERS}`;
    yield { severity: 'note', kind: 'refcount', what };
    return;
  }
  const references = new References(geometry.pages, header);
  references.countAll(table);
  for (const [what, count] of references.faults) yield { severity: 'defect', kind: 'entry', what, count };
  if (references.outside > 0) {
    const what = 'tables and entries lead beyond the end of the file';
    yield { severity: 'defect', kind: 'reference', what, count: references.outside };
  }
  if (references.exhausted) {
    const what = 'refcounts are not checked: the tables have more entries than are looked at';
    yield { severity: 'note', kind: 'refcount', what };
    return;
  }
  const stated = statedRefcounts(file, header);
  yield* compareCounts(references, stated, header.clusterSize);
  yield* copied(references, stated, header, geometry);
}

function* compareCounts(
  { counts, uses }: References,
  stated: Uint16Array,
  clusterSize: number,
): Generator<Told, void, undefined> {
  let low = 0;
  let high = 0;
  const overlaps = new Map<number, { count: number; first: number }>();
  for (let cluster = 0; cluster < counts.length; cluster++) {
    const used = counts[cluster]!;
    if (stated[cluster]! < used) low++;
    else if (stated[cluster]! > used) high++;
    const use = uses[cluster]!;
    if ((use & (use - 1)) === 0) continue;
    const known = overlaps.get(use);
    if (known) known.count++;
    else overlaps.set(use, { count: 1, first: cluster * clusterSize });
  }
  for (const [use, { count, first }] of overlaps) {
    const names = USES.filter((_, i) => use & (1 << i)).join(' and ');
    const what = `places of the file are used for ${names}, the first at byte ${first}`;
    yield { severity: 'defect', kind: 'overlap', what, count };
  }
  if (low > 0) {
    const what = 'clusters have a lower refcount than references: a writer would overwrite what is used';
    yield { severity: 'defect', kind: 'refcount', what, count: low };
  }
  if (high > 0) {
    const what = 'clusters have a higher refcount than references: their space is lost';
    yield { severity: 'leak', kind: 'refcount', what, count: high };
  }
}

/** In the current tables, the flag of an unshared cluster must say what the refcount says. */
function* copied(
  references: References,
  stated: Uint16Array,
  header: Header,
  { pages }: Geometry,
): Generator<Told, void, undefined> {
  const { clusterSize, l1Offset, l1Entries, hasDataFile } = header;
  let wrong = 0;
  const compare = (hi: number, lo: number) => {
    const offset = (hi & 0xffffff) * 2 ** 32 + ((lo & 0xfffffe00) >>> 0);
    const cluster = Math.floor(offset / clusterSize);
    if (offset !== 0 && (stated[cluster] === 1) !== ((hi & 0x80000000) !== 0)) wrong++;
    return offset;
  };
  const held = Math.min(l1Entries, Math.floor((pages.file.size - l1Offset) / 8));
  const seen = new Uint8Array(stated.length);
  let bytes: Buffer = Buffer.alloc(0);
  for (let i = 0; i < held; i++) {
    const at = (i * 8) % L1_PART;
    if (at === 0) bytes = pages.file.read(l1Offset + i * 8, Math.min(L1_PART, (held - i) * 8));
    const table = compare(bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4));
    const cluster = table / clusterSize;
    if (table === 0 || !Number.isInteger(cluster) || cluster >= seen.length || seen[cluster]) continue;
    seen[cluster] = 1;
    if (hasDataFile) continue;
    references.forEachL2(table, (hi, lo) => {
      if ((hi & 0x40000000) === 0) compare(hi, lo);
    });
  }
  if (wrong > 0) {
    const what = 'entries have a flag of an unshared cluster that the refcount denies';
    yield { severity: 'defect', kind: 'copied', what, count: wrong };
  }
}
