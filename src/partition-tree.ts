/**
 * Composition: the partitions of a disk that is shown, as files beside it (p1, p2 …) and as part of its info.json. A table is
 * read when somebody first looks for it, what the partitions hold when somebody asks for that, so that a mount of thousands
 * of points costs what their names cost.
 *
 * A partition is a window of the engine over the disk: reading it never asks JavaScript more than reading the disk does.
 */
import { type Content, contentOf } from './block/content.js';
import {
  type Partition,
  type Partitioned,
  partOf,
  type Survey,
  surveyPartitions,
} from './block/partitions.js';
import type { SectorSize } from './block/source.js';
import type { DiskFile, ShownDisk } from './mount/tree.js';
import { loadAddon, type NativeReadable } from './native.js';

/** What is told of a disk beside its name, size and time. */
export interface PartitionsInfo {
  /** `id`: the GUID or the number of the disk. `sectorSize`: bytes, what the table counts in. */
  readonly partitionTable: { readonly kind: string; readonly id: string; readonly sectorSize: number } | null;
  /** What is wrong with the table. */
  readonly partitionDefects: readonly string[];
  /** What the disk holds as a whole, such as a file system without a table. */
  readonly fileSystem: Content | null;
  readonly partitions: readonly PartitionInfo[];
}

export interface PartitionInfo {
  /** Its file, beside that of the disk. */
  readonly file: string;
  readonly number: number;
  /** Bytes. */
  readonly start: number;
  readonly length: number;
  /** Bytes by the table, where the disk ends before them; else null. */
  readonly stated: number | null;
  readonly type: string;
  readonly typeName: string;
  readonly name: string;
  readonly uuid: string;
  readonly bootable: boolean;
  readonly fileSystem: Content | null;
  /** Why it is not known what it holds; '' where it is. */
  readonly trouble: string;
}

/** Runs of one partition that are counted for its blocks; one with more counts as full. */
const MOST_RUNS = 20_000;

interface Shown {
  readonly partition: Partition;
  readonly disk: ShownDisk;
}

export class PartitionTree {
  readonly #disk: ShownDisk;
  readonly #whole: Partitioned;
  #survey: Promise<Survey> | undefined;
  #shown: readonly Shown[] | undefined;
  #opening: Promise<readonly Shown[]> | undefined;
  #info: Promise<PartitionsInfo> | undefined;

  constructor(disk: ShownDisk, sectorSize: SectorSize) {
    this.#disk = disk;
    this.#whole = partitioned(disk, sectorSize);
  }

  /** The files that have been made; undefined before anybody has looked. */
  known(modified: Date): DiskFile[] | undefined {
    return this.#shown?.map(({ partition, disk }) => file(partition, disk, modified));
  }

  /** The files; none where there is no table. Never rejects. */
  async files(modified: Date): Promise<DiskFile[]> {
    this.#opening ??= this.#open();
    await this.#opening;
    return this.known(modified)!;
  }

  /** Never rejects: what cannot be read is told. */
  info(): Promise<PartitionsInfo> {
    this.#info ??= this.#learn();
    return this.#info;
  }

  async #open(): Promise<readonly Shown[]> {
    this.#survey ??= surveyPartitions(this.#whole);
    const { table } = await this.#survey;
    const shown: Shown[] = [];
    for (const partition of table?.partitions ?? []) {
      try {
        const native = loadAddon().openWindow(this.#disk.native, partition.start, partition.size);
        const disk = { size: partition.size, native, of: this.#disk };
        shown.push({ partition, disk });
        count(native, partition.size).catch(() => {});
      } catch {
        // The disk was closed meanwhile.
      }
    }
    this.#shown = shown;
    return shown;
  }

  async #learn(): Promise<PartitionsInfo> {
    this.#survey ??= surveyPartitions(this.#whole);
    const { table, defects } = await this.#survey;
    const whole = await held(this.#whole);
    const partitions: PartitionInfo[] = [];
    for (const one of table?.partitions ?? []) {
      const { number, start, size, stated, type, typeName, name, uuid, bootable } = one;
      partitions.push({
        file: `p${number}`,
        number,
        start,
        length: size,
        stated: stated > size ? stated : null,
        type,
        typeName,
        name,
        uuid,
        bootable,
        ...(await held(partOf(this.#whole, start, size))),
      });
    }
    const { kind, id, sectorSize } = table ?? {};
    return {
      partitionTable: table ? { kind: kind!, id: id!, sectorSize: sectorSize! } : null,
      partitionDefects: defects,
      fileSystem: whole.fileSystem,
      partitions,
    };
  }
}

/** A disk as its table's reader wants it: fewer bytes at the end. */
export function partitioned({ size, native }: ShownDisk, sectorSize: SectorSize): Partitioned {
  return {
    size,
    sectorSize,
    async read(offset, length) {
      const from = Math.min(offset, size);
      const bytes = Buffer.allocUnsafe(Math.max(0, Math.min(length, size - from)));
      if (bytes.length > 0) await native.read(from, bytes);
      return bytes;
    },
  };
}

async function held(disk: Partitioned): Promise<Pick<PartitionInfo, 'fileSystem' | 'trouble'>> {
  try {
    return { fileSystem: (await contentOf(disk)) ?? null, trouble: '' };
  } catch (error) {
    return { fileSystem: null, trouble: error instanceof Error ? error.message : String(error) };
  }
}

function file({ number }: Partition, disk: ShownDisk, modified: Date): DiskFile {
  return { kind: 'disk', name: `p${number}`, modified, disk };
}

/** Tells the engine how many bytes are no holes, for st_blocks. */
async function count(native: NativeReadable, size: number): Promise<void> {
  let bytes = 0;
  let at = 0;
  for (let runs = 0; at < size; runs++) {
    if (runs === MOST_RUNS) return;
    const data = await native.seek(at, false);
    if (data < 0) break;
    at = await native.seek(data, true);
    bytes += at - data;
  }
  native.setAllocated(bytes);
}
