/**
 * What of a disk a backup need not take: what its file systems do not use, by their own maps, and swap where that is wished. A disk
 * is one file system, or has partitions, each of which may be one. Everything else is taken: tables, gaps, boot code, what is not
 * known, and what two readings of the disk do not agree on. Nothing here fails a backup: what cannot be told is kept, with why.
 */
import { type Partition, type Partitioned, surveyPartitions } from '../block/partitions.js';
import { signaturesOf } from '../block/signature.js';
import { bounded } from './left-out.js';
import { openWindow } from './loop-window.js';
import { type Excluded, joinRuns, type Run } from './manifest.js';
import { ntfsRootFiles } from './ntfs-files.js';
import { SWAP_HEAD, swapIn } from './swap.js';
import { mayHaveSwapFiles, swapFiles } from './swap-files.js';
import { type FileSystem, fileSystemAt, usedSpace } from './used-space.js';

export interface Wishes {
  /** Unused space is left out. */
  readonly map: boolean;
  /** Swap is left out. */
  readonly swap: boolean;
}

export interface Allocation {
  /** In order, apart; undefined where no map was believed. */
  readonly unused: readonly Run[] | undefined;
  /** Which maps, or why there are none; a sentence a part. */
  readonly why: string;
  readonly excluded: readonly Excluded[];
  /** Swap that was found and is kept. */
  readonly excludedNot: readonly string[];
}

/** The paging files of Windows, which lie in the root folder. */
const WINDOWS = ['pagefile.sys', 'hiberfil.sys', 'swapfile.sys'];

/** Milliseconds after which no further partition is looked into. */
const LONGEST = 30 * 60_000;

/** More partitions than that are not looked into. */
const MOST_PARTS = 256;

interface Part {
  readonly number: number | undefined;
  readonly start: number;
  readonly size: number;
}

/** `path` is a file or device with the very bytes of `disk`. Throws nothing. */
export async function allocationOf(disk: Partitioned, path: string, wishes: Wishes): Promise<Allocation> {
  const search = new Search(disk, path, wishes);
  try {
    await search.run();
  } catch (error) {
    search.why.push(`the disk cannot be looked at: ${messageOf(error)}`);
  }
  return search.answer();
}

class Search {
  readonly why: string[] = [];
  readonly #disk: Partitioned;
  readonly #path: string;
  readonly #wishes: Wishes;
  readonly #unused: Run[] = [];
  readonly #excluded: Excluded[] = [];
  readonly #kept: string[] = [];
  readonly #began = performance.now();
  #hasMap = false;

  constructor(disk: Partitioned, path: string, wishes: Wishes) {
    this.#disk = disk;
    this.#path = path;
    this.#wishes = wishes;
  }

  answer(): Allocation {
    return {
      unused: this.#hasMap ? bounded(joinRuns(this.#unused)) : undefined,
      why: this.#wishes.map ? this.why.join('; ') : 'all sectors were asked for',
      excluded: this.#excluded,
      excludedNot: this.#kept,
    };
  }

  async run(): Promise<void> {
    const table = await this.#table();
    if (table === undefined) return;
    if (table.length === 0) return this.#part({ number: undefined, start: 0, size: this.#disk.size });
    for (const { number, start, size } of table) await this.#part({ number, start, size });
  }

  /** Its partitions; none where it has no table; undefined where it is not to be known which. */
  async #table(): Promise<readonly Partition[] | undefined> {
    const no = (why: string) => {
      this.why.push(why);
      this.#kept.push(why);
      return undefined;
    };
    const { table, defects } = await surveyPartitions(this.#disk);
    if (defects.length > 0) return no(defects.join('; '));
    const partitions = table?.partitions ?? [];
    if (partitions.length === 0) return [];
    // One that was made of a bare file system may have its old marks still, and the other way round.
    const marks = [...(await signaturesOf(this.#disk.read, this.#disk.size))];
    if (marks.length > 0)
      return no(`the disk has partitions and bears the mark of ${marks.join(', ')} as well`);
    const sorted = [...partitions].sort((a, b) => a.start - b.start);
    if (sorted.some(({ start }, i) => i > 0 && start < sorted[i - 1]!.start + sorted[i - 1]!.size)) {
      return no('partitions of the disk overlap');
    }
    if (sorted.length > MOST_PARTS) return no(`the disk has ${sorted.length} partitions`);
    return sorted;
  }

  async #part(part: Part): Promise<void> {
    const where = part.number === undefined ? '' : `partition ${part.number}: `;
    const say = (what: string) => this.why.push(`${where}${what}`);
    const read = async (offset: number, length: number) => {
      const from = Math.min(offset, part.size);
      return this.#disk.read(part.start + from, Math.min(length, part.size - from));
    };
    if (performance.now() - this.#began > LONGEST) return void say('all sectors: looking takes too long');
    const marks = new Set(await signaturesOf(read, part.size).catch(() => []));
    marks.delete('mbr');
    if (marks.size === 0) return void say('all sectors: it holds nothing that is known');
    if (marks.size > 1) return void say(`all sectors: it bears the marks of ${[...marks].join(', ')}`);
    if (marks.has('swap')) {
      say('all sectors: it is swap');
      if (this.#wishes.swap) await this.#swapPartition(part, where, read);
      return;
    }
    const isWhole = part.start === 0 && part.size === this.#disk.size;
    // xfs_logprint opens for writing what is no device, which a snapshot does not allow.
    const asItIs = isWhole && !(marks.has('xfs') && process.geteuid?.() === 0);
    let window: { path: string; close(): void } | undefined;
    try {
      window = asItIs
        ? { path: this.#path, close() {} }
        : await openWindow(this.#path, part.start, part.size, this.#disk.sectorSize);
      const found = fileSystemAt(window.path);
      if (!found || !marks.has(found.known.mark)) {
        return void say(`all sectors: no map is known of ${[...marks].join()}`);
      }
      if (this.#wishes.map) {
        const { unused, why } = await usedSpace(window.path, part.size);
        say(unused ? why : `all sectors: ${why}`);
        if (unused) {
          this.#hasMap = true;
          for (const [start, length] of unused) this.#unused.push([part.start + start, length]);
        }
      }
      if (this.#wishes.swap) await this.#swapOf(part, where, found, window.path, read);
    } catch (error) {
      say(`all sectors: ${messageOf(error)}`);
      if (this.#wishes.swap) this.#kept.push(`${where}no swap was looked for: ${messageOf(error)}`);
    } finally {
      window?.close();
    }
  }

  async #swapPartition(part: Part, where: string, read: Partitioned['read']): Promise<void> {
    const head = Buffer.alloc(SWAP_HEAD);
    (await read(0, SWAP_HEAD)).copy(head);
    const swap = swapIn(head, part.size);
    if (!swap) return void this.#kept.push(`${where}it is kept: the header of its swap makes no sense`);
    const runs: Run[] = [[swap.from, swap.end - swap.from]];
    this.#leaveOut(part, { kind: 'swap-partition', name: swap.label, uuid: swap.uuid, runs });
  }

  /** Files in a file system at rest: of another what its records say may be out of date. */
  async #swapOf(
    part: Part,
    where: string,
    { known, head }: { readonly known: FileSystem; readonly head: Buffer },
    path: string,
    read: Partitioned['read'],
  ): Promise<void> {
    if (known.name !== 'NTFS' && !mayHaveSwapFiles(known)) return;
    const unrest = await known.unrest(head, path);
    if (unrest !== undefined) {
      this.#kept.push(`${where}no swap was looked for: ${unrest}`);
      return;
    }
    if (known.name === 'NTFS') {
      const files = await ntfsRootFiles(read, WINDOWS);
      if (typeof files === 'string') {
        this.#kept.push(`${where}no swap was looked for: ${files}`);
        return;
      }
      for (const { name, runs, why } of files) {
        if (runs) this.#leaveOut(part, { kind: 'windows-file', name: `/${name}`, runs });
        else this.#kept.push(`${where}/${name} is kept: ${why}`);
      }
      return;
    }
    if (process.geteuid?.() !== 0) {
      this.#kept.push(`${where}no swap was looked for: only an administrator may mount it`);
      return;
    }
    const { found, kept } = await swapFiles(path, known);
    for (const one of found) this.#leaveOut(part, one);
    this.#kept.push(...kept.map(text => `${where}${text}`));
  }

  #leaveOut({ number, start, size }: Part, one: Omit<Excluded, 'partition'>): void {
    const runs = joinRuns(one.runs.filter(([, length]) => length > 0));
    if (runs.some(([at, length]) => at < 0 || at + length > size)) {
      const where = number === undefined ? '' : `partition ${number}: `;
      this.#kept.push(`${where}${one.name} is kept: it leads out of its file system`);
      return;
    }
    const moved = runs.map(([at, length]): Run => [start + at, length]);
    this.#excluded.push({ ...one, ...(number === undefined ? {} : { partition: number }), runs: moved });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
