/**
 * Clusters that a mirror writes one by one, since what they have to hold is not simply a whole cluster of the source: its
 * start, over which the notice lies while the target is updated; its end, where that is within a cluster; and what a GPT is on
 * a larger disk.
 */
import type { GptWrite } from './block/gpt.js';
import type { Looked } from './cow/identity.js';
import { AsofError } from './errors.js';
import { cannotWrite, type MirrorJob, notWhatWasWritten, soundCluster, zeroRange } from './image/mirror.js';
import { writeAll } from './image/restore.js';
import { NOTICE } from './mirror-record.js';

/** The numbers of these clusters. */
export function edgeClusters(length: number, clusterSize: number, gpt: readonly GptWrite[]): Set<number> {
  const found = new Set<number>();
  const add = (start: number, end: number) => {
    for (let c = Math.floor(start / clusterSize); c * clusterSize < end; c++) found.add(c);
  };
  add(0, Math.min(NOTICE, length));
  if (length % clusterSize !== 0) add(length - 1, length);
  for (const { offset, bytes } of gpt) add(offset, offset + bytes.length);
  return found;
}

const SECTOR = 512;

interface Edge {
  /** Bytes of the target. */
  readonly offset: number;
  readonly bytes: Buffer;
  /** It lies under the notice. */
  readonly head: boolean;
}

export class Edges {
  /** Those of which the target holds something else. */
  readonly unlike: readonly Edge[];
  /** Those under the notice: they are written whenever anything is. */
  readonly #heads: readonly Edge[];
  /** Bytes that are no zeros, here or in the target, by clusters. */
  readonly held: number;
  #target: MirrorJob['target'];

  private constructor(job: MirrorJob, edges: readonly Edge[], unlike: readonly Edge[]) {
    this.#target = job.target;
    this.#heads = edges.filter(one => one.head);
    this.unlike = unlike;
    const used = edges.filter(one => unlike.includes(one) || !isZero(one.bytes));
    this.held = used.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  /** A target that was not there when they were looked at is now. */
  onto({ target }: MirrorJob): void {
    this.#target = target;
  }

  /** `size` is the target's, which is at least the source's; `there` what it holds now. Throws DAMAGED. */
  static async of(
    job: MirrorJob,
    clusters: Iterable<number>,
    size: number,
    there: Looked | undefined,
    gpt: readonly GptWrite[],
  ): Promise<Edges> {
    const { clusterSize, disk } = job;
    const edges: Edge[] = [];
    const unlike: Edge[] = [];
    for (const cluster of clusters) {
      const offset = cluster * clusterSize;
      const end = Math.min(size, offset + clusterSize);
      const found = there ? readOrNothing(there, offset, end - offset) : undefined;
      // What lies behind the end of the source stays as it is.
      const bytes = Buffer.alloc(end - offset);
      found?.copy(bytes);
      if (offset < disk.size) (await soundCluster(job, cluster)).copy(bytes);
      for (const write of gpt) lay(write, offset, bytes);
      const edge = { offset, bytes, head: offset < NOTICE };
      edges.push(edge);
      if (!found?.equals(bytes)) unlike.push(edge);
    }
    return new Edges(job, edges, unlike);
  }

  /** Bytes of those that differ. */
  get differing(): number {
    return this.unlike.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  /** All but the start. Bytes. */
  async writeRest(): Promise<number> {
    return this.#write(this.unlike.filter(one => !one.head));
  }

  /**
   * What the notice lies over, its first sector last: that goes to the disk whole or not at all, and until then the notice
   * stands. Bytes.
   */
  async writeHead(sync: () => Promise<void>): Promise<number> {
    const [start, ...others] = this.#heads;
    const { bytes } = start!;
    const rest = { offset: SECTOR, bytes: bytes.subarray(SECTOR) };
    const behind = await this.#write(rest.bytes.length > 0 ? [...others, rest] : others);
    await sync();
    return behind + (await this.#write([{ offset: 0, bytes: bytes.subarray(0, SECTOR) }]));
  }

  /** What the target will be when its start is written, as far as reads tell. */
  over(there: Looked): Looked {
    return {
      ...there,
      read: (offset, length) => {
        const bytes = there.read(offset, length);
        for (const head of this.#heads) lay(head, offset, bytes);
        return bytes;
      },
    };
  }

  /** Throws MIRROR_FAILED where one of them is not what was written. Bytes. */
  readBack(there: Looked, head: boolean): number {
    let done = 0;
    for (const { offset, bytes } of head ? this.#heads : this.unlike.filter(one => !one.head)) {
      if (!there.read(offset, bytes.length).equals(bytes)) throw notWhatWasWritten(this.#target.path, offset);
      done += bytes.length;
    }
    return done;
  }

  async #write(edges: readonly Pick<Edge, 'offset' | 'bytes'>[]): Promise<number> {
    const target = this.#target;
    let done = 0;
    for (const { offset, bytes } of edges) {
      if (isZero(bytes)) await zeroRange(target, offset, bytes.length);
      else {
        try {
          writeAll(target.fd, bytes, offset);
        } catch (error) {
          cannotWrite(target.path)(error);
        }
      }
      done += bytes.length;
    }
    return done;
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every(byte => byte === 0);
}

/** What cannot be read of the target is to be written. */
function readOrNothing(there: Looked, offset: number, length: number): Buffer | undefined {
  try {
    const bytes = there.read(offset, length);
    return bytes.length === length ? bytes : Buffer.concat([bytes, Buffer.alloc(length - bytes.length)]);
  } catch (error) {
    if (error instanceof AsofError && error.code === 'IO') return undefined;
    throw error;
  }
}

/** The part of `write` that falls into `bytes`, which lie at `offset`. */
function lay(write: GptWrite, offset: number, bytes: Buffer): void {
  const from = Math.max(offset, write.offset);
  const to = Math.min(offset + bytes.length, write.offset + write.bytes.length);
  if (to > from) write.bytes.copy(bytes, from - offset, from - write.offset, to - write.offset);
}
