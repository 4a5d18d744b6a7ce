/**
 * Composition: the one file that knows the image formats and the mount drivers. Front ends ask it alone.
 *
 * An opened image is its chain, the points of the chain, and a disk for each point that somebody asks for. A disk
 * compiles nothing before its first read, so that a mount of a thousand points costs what its names cost.
 */
import { fstatSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { Disk, type OnDamage } from './block/disk.js';
import { Overlay } from './block/overlay.js';
import { DigestCheck, type DigestVerdict } from './digest-check.js';
import { AsofError } from './errors.js';
import { type Chain, openChain } from './image/chain.js';
import { check as checkChain } from './image/check.js';
import { compare as compareDisks, type Difference } from './image/compare.js';
import type { Finding } from './image/finding.js';
import { findPoint, type Point, pointAt, points as pointsOf } from './image/points.js';
import { type ShadowInfo, type ShadowPoints, shadowPointsOf } from './image/shadow-points.js';
import { endOfTime } from './moment.js';
import type { MountDriver, Mounted, MountOptions } from './mount/driver.js';
import type { Directory, Entry, Tree } from './mount/tree.js';
import { Engine } from './native.js';
import { type PartitionsInfo, PartitionTree } from './partition-tree.js';

export type {
  Difference,
  DigestVerdict,
  Finding,
  MountDriver,
  Mounted,
  MountOptions,
  OnDamage,
  Overlay,
  PartitionsInfo,
  Point,
};

/** Bytes of unpacked blocks that are kept unless the user says otherwise. */
export const DEFAULT_CACHE = 128 * 2 ** 20;

/** Bytes of map rows that are kept; what is dropped is compiled again when it is needed. */
const MAP_BYTES = 32 * 2 ** 20;

/** Bytes of the beginning of each file that are part of a point's identity: headers, superblocks, UUIDs lie there. */
const IDENTITY_BYTES = 65536;

export interface ImageOptions {
  /** Folders in which parents and data files may be found, after the image's own. */
  readonly search?: readonly string[];
  /** The format of the named file; recognised where absent. */
  readonly format?: string | undefined;
  /** The format of a parent that its child does not state and nothing recognises; refused where absent. */
  readonly parentFormat?: string | undefined;
  readonly onDamage?: OnDamage;
  readonly cacheBytes?: number;
}

/** What `asof info` says of one member. */
export interface MemberInfo {
  readonly path: string;
  readonly format: string;
  /** Bytes of its virtual disk, and of its file. */
  readonly size: number;
  readonly fileSize: number;
  readonly modified: string;
  /** Device and inode at the time of opening: tells one file under two names. */
  readonly identity: string;
  readonly features: readonly string[];
  readonly snapshots: number;
  /** As the member itself names it, or null. */
  readonly parent: string | null;
  readonly parentFormat: string | null;
  readonly dataFile: string | null;
  /** What the image says of how it came to be: names and values. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly troubles: readonly string[];
}

/** What `asof points`, and info.json in a point's folder, say of a point. */
export interface PointInfo {
  readonly id: string;
  readonly name: string;
  readonly kind: Point['kind'];
  readonly time: string;
  readonly moment: string;
  readonly size: number;
  readonly sectorSize: number;
  readonly format: string;
  readonly file: string;
  readonly vmStateSize: number;
  /** Of a shadow copy. */
  readonly shadow?: ShadowInfo;
}

export interface ImageInfo {
  readonly path: string;
  readonly format: string;
  readonly size: number;
  readonly sectorSize: number;
  readonly members: readonly MemberInfo[];
  readonly points: readonly PointInfo[];
  /** Of the newest point, where it was asked for. */
  readonly verified?: DigestVerdict;
}

export class OpenedImage {
  readonly path: string;
  /** Newest first; at least one. */
  readonly points: readonly Point[];
  readonly #chain: Chain;
  readonly #shadows: ShadowPoints;
  readonly #onDamage: OnDamage;
  readonly #cacheBytes: number;
  readonly #disks = new Map<Point, Disk>();
  readonly #partitions = new Map<Point, PartitionTree>();
  #engine: Engine | undefined;
  #digests: DigestCheck | undefined;

  /** Throws what `openChain` throws. */
  constructor(path: string, options: ImageOptions = {}) {
    this.path = resolve(path);
    this.#onDamage = options.onDamage ?? 'error';
    this.#cacheBytes = options.cacheBytes ?? DEFAULT_CACHE;
    this.#chain = openChain(this.path, options);
    this.#shadows = shadowPointsOf(this.#chain);
    this.points = pointsOf(this.#chain, this.#shadows);
  }

  get newest(): Point {
    return this.points[0]!;
  }

  /** The point that `text` means; the newest where it is undefined. Throws POINT_UNKNOWN. */
  point(text: string | undefined): Point {
    if (text === undefined) return this.newest;
    if (!text.startsWith('@')) return findPoint(this.points, text);
    const time = endOfTime(text.slice(1));
    return time ? pointAt(this.points, time) : findPoint(this.points, text);
  }

  /** The disk of `point`: one object, however often it is asked for. Throws ADDON_MISSING. */
  disk(point: Point): Disk {
    let disk = this.#disks.get(point);
    if (!disk) {
      disk = this.openDisk(point, this.#onDamage);
      this.#disks.set(point, disk);
    }
    return disk;
  }

  /** What lies on the disk of `point`: one object, however often it is asked for. Throws ADDON_MISSING. */
  partitions(point: Point): PartitionTree {
    let partitions = this.#partitions.get(point);
    if (!partitions) {
      const disk = this.disk(point);
      partitions = new PartitionTree(disk, disk.source.sectorSize);
      this.#partitions.set(point, partitions);
    }
    return partitions;
  }

  /** A disk of `point` of its own, with its own list of defects; the caller closes it. */
  openDisk(point: Point, onDamage: OnDamage): Disk {
    this.#engine ??= new Engine({
      cacheBytes: this.#cacheBytes,
      mapBytes: MAP_BYTES,
      threads: availableParallelism(),
    });
    return new Disk(this.#engine, point.open(), onDamage);
  }

  /**
   * A writable view of the newest point, with its layer in the file `path`, or thrown away where there is none. It is to be
   * closed before this is. Throws OVERLAY_UNUSABLE.
   */
  openOverlay(path: string | undefined): Promise<Overlay> {
    const { newest } = this;
    const { size, native } = this.disk(newest);
    const label = `${newest.id} of ${newest.time.toISOString()}, in ${newest.member}`;
    const base = { size, native, identity: this.#identity(), label };
    return Overlay.open(base, path === undefined ? { scratch: tmpdir() } : { path });
  }

  /** What makes the newest point what it is: docs/formats.md. One that was moved, or copied with its times, is the same. */
  #identity(): string {
    const formats = this.#chain.members.map(({ format }) => format);
    const files = this.#chain.files.map(file => ({
      size: file.size,
      modified: String(fstatSync(file.fd, { bigint: true }).mtimeNs),
      begins: file.read(0, IDENTITY_BYTES).toString('base64'),
    }));
    return JSON.stringify({ size: this.newest.size, formats, files });
  }

  info(): ImageInfo {
    const { newest } = this;
    const top = this.#chain.members[0]!;
    return {
      path: this.path,
      format: top.format,
      size: newest.size,
      sectorSize: top.sectorSize,
      members: this.#chain.members.map((member, i) => {
        const { dev, ino } = fstatSync(member.file.fd);
        return {
          path: member.file.path,
          format: member.format,
          size: member.size,
          fileSize: member.file.size,
          modified: member.file.modified.toISOString(),
          identity: `${dev}:${ino}`,
          features: member.features,
          snapshots: member.snapshots.length,
          parent: member.parent?.name ?? null,
          parentFormat: member.parent?.format ?? null,
          dataFile: member.dataFile?.file.path ?? null,
          metadata: Object.fromEntries(member.metadata ?? []),
          troubles:
            i > 0 ? member.troubles : [...member.troubles, ...this.#shadows.findings.map(({ what }) => what)],
        };
      }),
      points: this.points.map(point => this.pointInfo(point)),
      ...(this.#digests && { verified: this.#digests.verdict() }),
    };
  }

  pointInfo(point: Point): PointInfo {
    const member = this.#chain.members.find(one => one.file.path === point.member)!;
    return {
      id: point.id,
      name: point.name,
      kind: point.kind,
      time: point.time.toISOString(),
      moment: point.moment,
      size: point.size,
      sectorSize: member.sectorSize,
      format: member.format,
      file: point.member,
      vmStateSize: point.vmStateSize,
      ...(point.shadow && { shadow: point.shadow }),
    };
  }

  /** Compares the newest point with the digests that its image carries, beside whoever reads it. */
  verify(): Promise<DigestVerdict> {
    this.#digests ??= new DigestCheck(this.openDisk(this.newest, 'error'), this.newest.digests);
    return this.#digests.run();
  }

  check(): Iterable<Finding> {
    return checkChain(this.#chain);
  }

  compare(a: Point, b: Point): AsyncIterable<Difference> {
    return compareDisks(this.disk(a), this.disk(b));
  }

  /** Closes every disk, the engine and every file. A second call does nothing. */
  close(): void {
    this.#digests?.stop();
    for (const disk of this.#disks.values()) disk.close();
    this.#disks.clear();
    this.#engine?.close();
    this.#engine = undefined;
    this.#chain.close();
  }
}

/** The tree that `asof mount` shows of an image: docs/design.md, "The mount". With `overlay` the newest disk is that. */
export function treeOf(image: OpenedImage, overlay?: Overlay): Tree {
  const { newest } = image;
  const folders = new Map<Point, Directory>();
  const oldest = image.points.reduce((first, { time }) => Math.min(first, time.getTime()), Infinity);
  for (const point of image.points) {
    folders.set(point, {
      kind: 'directory',
      name: point.moment,
      modified: point.time,
      entries: [
        ...diskAndDefects(image, point),
        {
          kind: 'text',
          name: 'info.json',
          modified: point.time,
          text: async () => json({ ...image.pointInfo(point), ...(await image.partitions(point).info()) }),
        },
      ],
      more: () => image.partitions(point).files(point.time),
    });
  }
  return {
    kind: 'directory',
    name: '',
    modified: newest.time,
    entries: [
      ...diskAndDefects(image, newest, overlay),
      {
        kind: 'text',
        name: 'info.json',
        modified: newest.time,
        text: async () =>
          json({
            ...image.info(),
            ...(await image.partitions(newest).info()),
            ...(overlay && { overlay: overlay.info() }),
          }),
      },
      ...folders.values(),
    ],
    // What is written to an overlay may move them: those of the point itself are in its folder.
    more: overlay ? undefined : () => image.partitions(newest).files(newest.time),
    find: name => {
      const time = name.startsWith('@') ? endOfTime(name.slice(1)) : undefined;
      if (!time || time.getTime() < oldest) return undefined;
      return folders.get(pointAt(image.points, time));
    },
  };
}

/** Milliseconds of rest that the count of all points but the newest takes for a few of work. */
const PAUSE = 16;

/**
 * Counts what is no zero run, for `st_blocks`, point by point in the background: the newest as fast as other work
 * lets it, the others in a fifth of the time. Ends early where the image is closed.
 */
export async function countAllocations(image: OpenedImage): Promise<void> {
  for (const point of image.points) {
    const disk = image.disk(point);
    const how = point === image.newest ? { learn: true } : { pause: PAUSE };
    if ((await disk.countAllocated(how)) === undefined) return;
    // A small map is counted without a rest; many of them must not keep reads from being answered.
    await new Promise(done => setTimeout(done, PAUSE));
  }
}

/** The defects are those of the point itself, whatever an overlay has healed. */
function diskAndDefects(image: OpenedImage, point: Point, overlay?: Overlay): Entry[] {
  const disk = image.disk(point);
  const shown = overlay ? { disk: overlay, writable: true } : { disk };
  return [
    { kind: 'disk', name: 'disk', modified: point.time, ...shown },
    {
      kind: 'text',
      name: 'defects.json',
      modified: point.time,
      text: () => json({ point: point.id, defects: disk.defects() }),
    },
  ];
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

export const DRIVERS = ['native', 'fuse-native'] as const;
export type DriverName = (typeof DRIVERS)[number];

/**
 * The mount driver of that name, or where none is named the first that can be used here.
 * Throws DRIVER_UNAVAILABLE.
 */
export async function mountDriver(name?: DriverName): Promise<MountDriver> {
  const reasons: string[] = [];
  for (const one of name ? [name] : DRIVERS) {
    const driver = await loadDriver(one);
    const why = driver.unavailable();
    if (why === undefined) return driver;
    reasons.push(`${one}: ${why}`);
  }
  const other = DRIVERS.find(one => one !== name);
  throw new AsofError(
    'DRIVER_UNAVAILABLE',
    name ? `the mount driver ${reasons[0]}` : `no mount driver can be used here; ${reasons.join('; ')}`,
    name && other ? `--driver ${other} is the other one` : '',
  );
}

async function loadDriver(name: DriverName): Promise<MountDriver> {
  if (name === 'native') return (await import('./mount/native-fuse.js')).nativeFuse;
  return (await import('./mount/fuse-native.js')).fuseNative;
}

/** Ends the mount on `mountPoint`. Throws NOT_MOUNTED, or MOUNT_BUSY unless `lazy`. */
export async function unmount(
  mountPoint: string,
  options: { readonly lazy: boolean; readonly waits?: (what: string) => void },
): Promise<void> {
  const { unmountAt } = await import('./mount/unmount.js');
  await unmountAt(mountPoint, options);
}
