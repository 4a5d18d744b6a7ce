/**
 * The shadow copies that lie inside an image, as points of it: of the volume that the disk is, and of each partition.
 *
 * Only the newest state of the image is looked into. The disks below it in its chain are images of their own, whose shadow
 * copies show where they are opened.
 */
import { basename } from 'node:path';
import { Peek } from '../block/peek.js';
import { stack } from '../block/stack.js';
import { window } from '../block/window.js';
import { AsofError } from '../errors.js';
import type { Chain } from './chain.js';
import type { Finding } from './finding.js';
import { lostRanges } from './lost.js';
import type { UnnamedPoint } from './points.js';
import { ShadowCopies, type Store } from './shadow-copies.js';
import { partsOf } from './shadow-volumes.js';

/** What a shadow copy says of itself. */
export interface ShadowInfo {
  /** As vshadowmount counts: 1 is the oldest. */
  readonly store: number;
  /** Of the partition that holds the volume; null where the disk is the volume. */
  readonly partition: number | null;
  readonly storeId: string;
  /** Whole 100 ns. */
  readonly created: string;
  /** Windows 8 and later leave out of a restore point what a restore does not need: files of users may be missing. */
  readonly scoped: boolean;
  readonly copyId: string | null;
  readonly setId: string | null;
  readonly attributes: readonly string[];
  readonly attributeFlags: number | null;
  readonly operatingMachine: string;
  readonly serviceMachine: string;
  /** What is wrong with it, sentences. */
  readonly troubles: readonly string[];
}

export interface ShadowPoints {
  /** Newest first. */
  readonly points: readonly UnnamedPoint[];
  readonly findings: readonly Finding[];
}

/** Nothing is thrown: what is wrong with a catalogue must not keep the disk itself from being opened. */
export function shadowPointsOf({ members }: Chain): ShadowPoints {
  const top = members[0]!;
  const file = top.file.path;
  const open = () =>
    stack(
      members.map(({ layer }) => layer),
      top.sectorSize,
    );
  const points: UnnamedPoint[] = [];
  const findings: Finding[] = [];
  const trouble = (what: string) =>
    findings.push({ severity: 'defect', kind: 'image', member: file, what, count: 1 });
  const disk = open();
  const found = new Set<number | null>();
  for (const { number: partition, start, size } of partsOf(new Peek(disk))) {
    if (found.has(partition)) continue;
    const source = partition === null ? disk : window(disk, start, size);
    const where = partition === null ? 'shadow copies' : `shadow copies in partition ${partition}`;
    let copies: ShadowCopies;
    try {
      copies = new ShadowCopies(source);
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
      trouble(`${where}: ${error.message}`);
      continue;
    }
    if (copies.stores.length > 0) found.add(partition);
    for (const store of copies.stores.toReversed()) {
      const name = `${partition === null ? '' : `p${partition}-`}store${store.number}`;
      if (store.trouble !== undefined) trouble(`${where}, store ${store.number}: ${store.trouble}`);
      if (!store.places || !Number.isSafeInteger(store.size)) continue;
      points.push({
        id: `${basename(file)}#${name}`,
        name,
        time: dateOf(store.filetime),
        kind: 'shadow copy',
        size: store.size,
        member: file,
        vmStateSize: 0,
        digests: [],
        shadow: infoOf(store, partition),
        open: () => copies.open(store),
      });
    }
  }
  return { points, findings };
}

/** What of the shadow copies cannot be read, from their tables: slow, as it reads them whole. */
export function* checkShadowCopies(chain: Chain): Generator<Finding, void, undefined> {
  const { points, findings } = shadowPointsOf(chain);
  yield* findings;
  const { file } = chain.members[0]!;
  for (const { open, name } of points) {
    for (const finding of lostRanges(open(), file))
      yield { ...finding, member: file.path, what: `${name}: ${finding.what}`, snapshot: name };
  }
}

function infoOf(store: Store, partition: number | null): ShadowInfo {
  const { details } = store;
  return {
    store: store.number,
    partition,
    storeId: store.id,
    created: textOf(store.filetime),
    scoped: store.scoped,
    copyId: details?.copyId ?? null,
    setId: details?.setId ?? null,
    attributes: details?.attributes ?? [],
    attributeFlags: details?.attributeFlags ?? null,
    operatingMachine: details?.operatingMachine ?? '',
    serviceMachine: details?.serviceMachine ?? '',
    troubles: store.trouble === undefined ? [] : [store.trouble],
  };
}

/** From 1601-01-01 to 1970-01-01, in units of 100 ns (MS-DTYP 2.3.3). */
const EPOCH = 116_444_736_000_000_000n;
/** What a Date can tell. */
const FURTHEST = 8_640_000_000_000_000n;

function dateOf(filetime: bigint): Date {
  const ms = (filetime - EPOCH) / 10_000n;
  return new Date(Number(ms > FURTHEST ? FURTHEST : ms));
}

/** ISO 8601 with all seven digits of the second's fraction. */
function textOf(filetime: bigint): string {
  const fraction = String(filetime % 10_000_000n).padStart(7, '0');
  return dateOf(filetime)
    .toISOString()
    .replace(/\.\d+Z$/, `.${fraction}Z`);
}
