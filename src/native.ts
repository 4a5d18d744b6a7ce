/**
 * The addon: the one file that loads it. ASOF_ADDON names another build of it (the sanitizers').
 *
 * What the addon does is said in native/*.h; the interfaces here are its whole surface.
 */
import { createRequire } from 'node:module';
import { AsofError } from './errors.js';

/** An answer to the engine: see block/region.ts. */
export interface NativeRegion {
  readonly start: number;
  readonly rows: Float64Array;
  readonly reasons: readonly string[];
}

export interface NativeDefect {
  readonly offset: number;
  readonly length: number;
  readonly why: string;
}

/** What every disk of the addon can do, whatever it is made of: what a mount shows. */
export interface NativeReadable {
  /** Fills `buffer` from `offset`. Rejects with DAMAGED; the range has been checked by the caller. */
  read(offset: number, buffer: Uint8Array): Promise<void>;
  /** lseek(2) with SEEK_DATA, or SEEK_HOLE where `hole`: -1 where there is no more data. */
  seek(offset: number, hole: boolean): Promise<number>;
  /** What reads have met so far, in order, joined. */
  defects(): NativeDefect[];
  /** Tells the engine how many bytes are no zero runs, once they have been counted; what counts by itself ignores it. */
  setAllocated(bytes: number): void;
  /** Reads under way end first (on their threads); later ones fail. */
  close(): void;
}

/** One disk in the engine. */
export interface NativeDisk extends NativeReadable {
  /** The engine's descriptor of the one plain file that this disk is (a mount may pass it through), else -1. */
  wholeFile(): Promise<number>;
  /**
   * Has the map know what lies at `offset`, asking `resolve` where it does not yet. Where the region ends, and how many
   * of its bytes from `offset` on are no zero runs; undefined where there is no answer.
   */
  learn(offset: number): { readonly end: number; readonly allocated: number } | undefined;
}

export interface NativeEngine {
  /** Duplicates `fd`, which must be open for reading; the number stands for it in the rows. */
  addFile(fd: number, path: string): number;
  openDisk(
    size: number,
    sectorSize: number,
    zeroDamage: boolean,
    resolve: (offset: number) => NativeRegion,
  ): NativeDisk;
  stats(): EngineStats;
  close(): void;
}

export interface EngineStats {
  /** Bytes of unpacked blocks held, and the limit. */
  readonly cacheBytes: number;
  readonly cacheLimit: number;
  /** Bytes of map rows held, and the limit. */
  readonly mapBytes: number;
  readonly mapLimit: number;
  /** Blocks unpacked, and reads of one that found it unpacked. */
  readonly unpacked: number;
  readonly hits: number;
  /** Regions asked for. */
  readonly resolved: number;
}

export interface EngineOptions {
  /** Bytes of unpacked blocks to keep; all disks of the engine share them. */
  readonly cacheBytes: number;
  /** Bytes of map rows to keep. */
  readonly mapBytes: number;
  /** Threads that unpack beside the reader's own. */
  readonly threads: number;
}

/** One entry of a mounted tree; see mount/tree.ts for what each kind is. */
export interface NativeNode {
  readonly id: number;
  readonly parent: number;
  readonly name: string;
  readonly kind: 'directory' | 'disk' | 'text';
  /** Milliseconds since the epoch. */
  readonly modified: number;
  /** Of kind `directory`: not all its names are known yet; `list` is asked when somebody looks. */
  readonly partial?: boolean;
  /** Of kind `disk`. */
  readonly disk?: NativeReadable;
  /** The disk is a NativeLiveDisk that may be written through this file; in a session that is `writable`. */
  readonly writable?: boolean;
}

/** What becomes of a tree while it is mounted. */
export interface NativeChanges {
  /** Ids; everything below them goes too. */
  readonly remove: readonly number[];
  /** New ones, with ids that are higher than any before; and known ones, of which only `modified` may differ. */
  readonly nodes: readonly NativeNode[];
  /** Ids of disks of whose bytes the kernel shall forget what it holds. */
  readonly refresh: readonly number[];
}

export interface SessionOptions {
  /** An open descriptor of /dev/fuse that is already mounted (fusermount3 made it, or `mountFuse`); the session owns it. */
  readonly fd: number;
  readonly nodes: readonly NativeNode[];
  /** Worker threads; 0 is one a CPU. */
  readonly threads: number;
  readonly uid: number;
  readonly gid: number;
  /**
   * Speak over io_uring where the kernel offers it. If it then refuses the rings, the session ends with an errno
   * before it is ready, and the caller mounts again without.
   */
  readonly uring: boolean;
  /** Disks may be written; the mount then must not be read-only. */
  readonly writable: boolean;
  /** The content of a text file, asked at each open and stat; undefined where `answer` follows. */
  readonly text: (id: number, token: number) => string | undefined;
  /** Has all names of a directory put into the tree (`update`), then calls `answer`. */
  readonly list: (id: number, token: number) => void;
  /** The id of the entry that an unlisted name of a directory stands for; 0 where there is none. */
  readonly find: (parent: number, name: string) => number;
  /** Called once, on the JavaScript thread, when every worker has ended: 0 after an unmount, else the errno. */
  readonly ended: (errno: number) => void;
}

/** What the kernel and the session agreed on, for the log and for tests. */
export interface SessionFacts {
  readonly protocol: string;
  /** Bytes of a request; `maxWrite` is 0 where nothing can be written. */
  readonly maxRead: number;
  readonly maxWrite: number;
  readonly threads: number;
  readonly uring: boolean;
  readonly passthrough: boolean;
}

export interface NativeSession {
  /** Resolves when FUSE_INIT has been answered. */
  ready(): Promise<SessionFacts>;
  /**
   * Changes the tree, at once; resolves when the kernel has forgotten what it remembered of the old one, or the session
   * ends. Throws EINVAL, with nothing changed, for what cannot be; rejects with ESHUTDOWN where the session has ended.
   */
  update(changes: NativeChanges): Promise<void>;
  /** Answers a question of `text` or `list`; null is an error. */
  answer(token: number, text: string | null): void;
  /** Ends the workers without an unmount (the connection is aborted); `ended` follows. */
  abort(): void;
}

/** A disk of a machine whose plug a test can pull (native/cow_model.h). */
export interface CowModelFile {
  readonly machine: NativeCowMachine;
  readonly file: number;
}

/** Milliseconds, errnos, bytes; what is left out is off. */
export interface CowFaults {
  readonly readMs?: number;
  readonly writeMs?: number;
  readonly syncMs?: number;
  readonly readError?: number;
  readonly writeError?: number;
  readonly syncError?: number;
  /** So many operations pass before the errors begin. */
  readonly after?: number;
  readonly capacity?: number;
  readonly hang?: boolean;
  readonly dropSync?: boolean;
  /** A sync does nothing for these of a store's blocks. */
  readonly unsynced?: 'copies' | 'records';
  readonly noPunch?: boolean;
}

export interface NativeCowMachine {
  /** The machine as the cut leaves it; this one answers EIO from now on. */
  cut(seed: number): NativeCowMachine;
  setFaults(file: number, faults: CowFaults): void;
  bytes(file: number): Buffer;
  setBytes(file: number, bytes: Uint8Array): void;
}

export type CowDurability = 'power' | 'process';
export type OnCowError = 'break-snapshot' | 'break-write';

export interface CowEvent {
  readonly kind: 'low-water' | 'broken' | 'unrecorded' | 'tracker-lost';
  readonly snapshot: string;
  /** Bytes of the store. */
  readonly used: number;
  readonly limit: number;
  readonly why: string;
}

export interface CowOptions {
  /** UUID of the volume. */
  readonly volume: string;
  /** Bytes; the origin may be longer. */
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  /** Bytes: a power of two from 4096 to 2 MiB. */
  readonly chunkSize: number;
  /** Bytes of a hot region of the tracker: a power of two from the chunk size to 1 GiB. */
  readonly regionSize: number;
  readonly durability: CowDurability;
  readonly onError: OnCowError;
  /** How long a copy may take before it counts as failed; 0 is for ever, and saves each copy a change of threads. */
  readonly timeoutMs: number;
  /** Bytes of the store in use at most; 0 is no limit. */
  readonly limit: number;
  /** Bytes left at which `low-water` comes; 0 is never. */
  readonly lowWater: number;
  /** The volume is new: an empty tracker means that nothing was written, not that it was lost. */
  readonly create: boolean;
  /** The epoch in which it is now at least: where the tracker is lost, its count does not begin anew. */
  readonly leastEpoch?: number;
  /** /proc/sys/kernel/random/boot_id. */
  readonly bootId: string;
  /** Descriptors open for reading and writing, duplicated. No store is one in memory, no tracker one that forgets. */
  readonly origin: number | CowModelFile;
  readonly store: number | CowModelFile | null;
  readonly tracker: number | CowModelFile | null;
  readonly event: (event: CowEvent) => void;
}

export interface CowFound {
  readonly existed: boolean;
  readonly clean: boolean;
  readonly epoch: number;
  /** Preserved chunks; those cut short by the stop and dropped; those that do not match and read as errors. */
  readonly copies: number;
  readonly torn: number;
  readonly damaged: number;
  /** Not empty: every snapshot became invalid, and why. */
  readonly broken: string;
  /** Not empty: what changed before is unknown, and why. */
  readonly tracking: string;
}

export interface CowSnapshot {
  readonly id: string;
  readonly state: 'live' | 'broken';
  /** Of a broken one: an errno's name, and a sentence. */
  readonly error: string;
  readonly why: string;
  readonly epoch: number;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly group: string;
  /** Volumes that were to be of the group: after a power cut fewer may have it, if it was never acknowledged. */
  readonly groupSize: number;
  readonly holdNs: number;
  readonly switchNs: number;
  readonly releasedChunks: number;
}

export interface CowTaken {
  readonly time: number;
  /** Nanoseconds from the first gate's closing to the last one's opening, and the switch alone. */
  readonly holdNs: number;
  readonly switchNs: number;
  readonly epochs: readonly number[];
  /** Writes that each volume had met at the switch, when none was under way. */
  readonly writes: readonly number[];
}

export interface CowChanges {
  /** Start and length in bytes alternate. */
  readonly runs: Float64Array;
  /** Where to go on; the volume's size where that was all. */
  readonly next: number;
  /** False where `runs` may hold more than changed; `why` says why. They never hold less. */
  readonly exact: boolean;
  readonly why: string;
}

export interface CowActivity {
  readonly writes: number;
  readonly bytes: number;
  readonly firstWrites: number;
  readonly copies: number;
  /** First writes that waited for another's copy of the same chunk. */
  readonly waits: number;
  readonly flushes: number;
  /** Regions noted by the tracker; syncs of the store. */
  readonly notes: number;
  readonly syncs: number;
  /** Chunks in the store. */
  readonly preserved: number;
  /** Bytes: in use, the limit (0: none), what the file holds, what its file system has left. */
  readonly storeUsed: number;
  readonly storeLimit: number;
  readonly storeHeld: number;
  readonly storeFree: number;
  readonly epoch: number;
}

/** The live device. Rejections carry an errno's name as their code. */
export interface NativeLiveDisk extends NativeReadable {
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Reads as zeros afterwards; with `punch` its space is given back where the origin can. */
  writeZeroes(offset: number, length: number, punch: boolean): Promise<void>;
  flush(): Promise<void>;
}

/** A volume under the copy-on-write layer: native/cow_volume.h. */
export interface NativeCowVolume {
  live(): NativeLiveDisk;
  snapshots(): CowSnapshot[];
  /** Throws ENOENT. */
  disk(snapshot: string): NativeReadable;
  delete(snapshot: string): Promise<void>;
  /**
   * Whole chunks within the runs (start and length alternate) are no longer kept for this snapshot; reads of them fail.
   * Rejects with EBUSY while more than `own` files are open on it.
   */
  release(snapshot: string, runs: Float64Array, own: number): Promise<void>;
  /**
   * What the store has of this snapshot, starts and lengths of whole chunks: at first all of it, then what came since. At most
   * `limit` runs, the rest the next time. Rejects with ENOENT.
   */
  preserved(snapshot: string, limit: number): Promise<Float64Array>;
  /**
   * Written after the snapshot of epoch `since`, up to that of epoch `until`; 0 is up to now. From byte `from` on, and at
   * most `limit` runs; all of them unless these are given.
   */
  changes(since: number, until: number, from?: number, limit?: number): Promise<CowChanges>;
  /** Somebody else wrote: all snapshots become invalid, and nothing before now is known to have changed or not. */
  distrust(why: string): Promise<void>;
  activity(): CowActivity;
  /** The clean stop: later writes fail with ESHUTDOWN, and this object with them. */
  close(): Promise<void>;
  /** Lets go without a clean stop, as a killed process does. */
  abandon(): void;
}

/** Each as it was when nobody was inside, in the order of the volumes. */
export interface NativeHold {
  readonly time: number;
  readonly writes: readonly number[];
  readonly epochs: readonly number[];
  /** Lets writers go. False where they had been let go before: the limit was over. */
  end(): boolean;
}

export interface NativeCowVolumes {
  open(options: CowOptions): Promise<{ readonly volume: NativeCowVolume; readonly found: CowFound }>;
  /** One moment of all the volumes. Rejects with ETIMEDOUT where writes under way did not end in time. */
  snapshot(
    volumes: readonly { readonly volume: NativeCowVolume; readonly id: string }[],
    group: string,
    timeoutMs: number,
  ): Promise<CowTaken>;
  /**
   * Lets nobody write to the volumes, and syncs what was written: for a snapshot that somebody else takes. Rejects with
   * ETIMEDOUT where writes under way did not end within `drainMs`. After `limitMs` it ends by itself.
   */
  hold(volumes: readonly NativeCowVolume[], drainMs: number, limitMs: number): Promise<NativeHold>;
}

/** A layer that is kept, in a file of its own: docs/formats.md, "The layer of an overlay". */
export interface KeptLayer {
  /** The file is new and empty; else it holds a layer. */
  readonly create: boolean;
  /** UUID of a new one. */
  readonly id: string;
  /** 32 bytes: of which point it is. */
  readonly identity: Uint8Array;
  /** The same for people. */
  readonly label: string;
}

export interface OverlayOptions {
  /** The disk below, which stays open for as long as the overlay is. It is never written. */
  readonly base: NativeReadable;
  /** A descriptor open for reading and writing, duplicated; empty unless it holds a kept layer. */
  readonly file: number | CowModelFile;
  /** null: the layer goes with the file. */
  readonly kept: KeptLayer | null;
}

/** Bytes; `readers` is how many files are open on it. */
export interface OverlayFacts {
  /** Whole blocks that have been written; those that hold space; no zero runs of the whole, at most. */
  readonly written: number;
  readonly held: number;
  readonly allocated: number;
  readonly readers: number;
}

/** A writable view of a disk: native/overlay_disk.h. */
export interface NativeOverlay {
  disk(): NativeLiveDisk;
  facts(): OverlayFacts;
  /**
   * What is under way ends, what was written is stable, the file is given back; later reads and writes fail with ESHUTDOWN.
   * Rejects with an errno's name where not all of it could be. A second call does nothing.
   */
  close(): Promise<void>;
}

/** What becomes of a cluster, by number: native/clusters.h. */
export const CLUSTER_KINDS = ['zero', 'same', 'plain', 'packed'] as const;

/** A batch of clusters that has been read. */
export interface PreparedClusters {
  readonly id: number;
  /** Of each: its kind; the bytes of a packed one; its SHA-256 (32 bytes), padded with zeros to a whole cluster. */
  readonly kinds: Uint8Array;
  readonly lengths: Uint32Array;
  readonly digests: Uint8Array;
  /** Sectors that could not be read, offset and length alternate; in `digests` and in the bytes they are zeros. */
  readonly bad: Float64Array;
}

/** Reads, digests, packs and writes clusters, by the batch, on threads of its own. Rejections carry an errno's name. */
export interface NativeImager {
  /**
   * Reads `clusters` of `disk` (at most 4096). `same` is what has its digest in `expected` (32 bytes each; zeros are none).
   * `level` is zstd's; 0 packs nothing; -1 keeps no bytes: the batch is good for no other call then.
   */
  prepare(
    disk: NativeDisk,
    clusters: Float64Array,
    expected: Uint8Array | null,
    level: number,
  ): Promise<PreparedClusters>;
  /**
   * Reads `clusters` of both disks. `zero` is what is zeros in both, `same` what is the same otherwise, `plain` what differs,
   * or cannot be read of `other`; `bad` is what cannot be read of `disk`, as in PreparedClusters.
   */
  compare(
    disk: NativeDisk,
    other: NativeDisk,
    clusters: Float64Array,
  ): Promise<Pick<PreparedClusters, 'kinds' | 'bad'>>;
  /** Writes plain and packed clusters of a batch at `offsets` of the file; -1 leaves one out. */
  store(id: number, fd: number, offsets: Float64Array): Promise<void>;
  /** Adds `zeros` zeros, then `length` bytes from the batch's cluster `first` on, to the digest of the whole. One at a time. */
  hash(id: number, first: number, zeros: number, length: number): Promise<void>;
  /** Adds zeros, and ends the digest of the whole: SHA-256. */
  wholeDigest(zeros: number): Promise<Buffer>;
  free(id: number): void;
  /** Waits for what is under way. */
  close(): void;
}

export interface Addon {
  Imager: new (threads: number, clusterSize: number) => NativeImager;
  /** The kernel forgets what it holds of a file, as far as it is on stable storage. */
  dropCache(fd: number): void;
  /** The kernel reads of it what is asked for, and nothing ahead of that. */
  readExactly(fd: number): void;
  /** Rejects with EINVAL (no layer), ESTALE (of another point), EUCLEAN (damaged), or another errno's name. */
  openOverlay(options: OverlayOptions): Promise<NativeOverlay>;
  CowVolume: NativeCowVolumes;
  /** For tests: files of these sizes. */
  CowMachine: new (
    sizes: readonly number[],
  ) => NativeCowMachine;
  Engine: new (options: EngineOptions) => NativeEngine;
  /** A part of a disk as one; its defects are those of the whole, and so is its end. Throws OUT_OF_RANGE. */
  openWindow(whole: NativeReadable, start: number, size: number): NativeReadable;
  Session: new (options: SessionOptions) => NativeSession;
  /**
   * mount(2) of a FUSE file system, read-only unless `writable`: the open descriptor of /dev/fuse. Throws an error whose
   * `code` is the errno's name.
   */
  mountFuse(mountPoint: string, source: string, allowOther: boolean, writable: boolean): number;
  /** umount2(2). Throws an error whose `code` is the errno's name. */
  unmount(mountPoint: string, lazy: boolean): void;
  /** Two connected sockets, for fusermount3 to send /dev/fuse's descriptor over: ours and its. */
  socketPair(): [number, number];
  /** The descriptor that came over `socket`, or -1. Does not wait. */
  receiveFd(socket: number): number;
  /**
   * The runs of `fd` that hold data, as SEEK_DATA and SEEK_HOLE tell them, within [offset, offset + length):
   * start and length alternate. At most `limit` runs; where the file system cannot tell, all is data.
   */
  fileExtents(fd: number, offset: number, length: number, limit: number): Float64Array;
  /** One packed block, unpacked on this thread; `codec` is its place in CODECS. undefined where it is not what it says. */
  unpack(codec: number, packed: Uint8Array, length: number): Buffer | undefined;
  /** CRC-32 (of zlib) of what had the CRC-32 `before`, 0 for nothing, and `bytes` behind it. */
  crc32(before: number, bytes: Uint8Array): number;
  /** A bzip2 stream of at most `limit` bytes, unpacked; undefined where it is none. Bytes may follow it. */
  unbzip2(packed: Uint8Array, limit: number): Buffer | undefined;
  /**
   * Files of a folder whose names end in one of `endings`: names with `/` between them and, four numbers a name, which file it
   * is (inode, bytes, times of writing and of change in milliseconds as fs.Stats has them; NaN where it cannot be asked).
   * Throws an error whose `code` is the errno's name.
   */
  folderFiles(path: string, endings: readonly string[]): { names: string; states: Float64Array };
  /**
   * Where the blocks of `fd` lie on its device, and those of its extended attributes where that is told: start and length
   * alternate. At most `limit` runs. Throws EOPNOTSUPP where the file system has no places to tell.
   */
  filePlaces(fd: number, limit: number): Float64Array;
  /** Extended attributes of what `path` itself is, also of a symbolic link: name and value alternate, in no order. */
  fileAttributes(path: Buffer): Buffer[];
  /** flock(2), exclusive and without waiting: whether it is ours now. Of a descriptor's duplicates too. */
  lockWhole(fd: number): boolean;
  /** flock(2), shared and without waiting: whether nobody else has it exclusively. */
  lockShared(fd: number): boolean;
  /** Gives the space of a range back to the file system, where it can take it: fallocate(2). Whether it did. */
  punchHole(fd: number, offset: number, length: number): boolean;
  /** As `lockWhole`; who has it in words where it is not ours, '' where it is. Waits a moment for a holder that is dying. */
  lockOrHolder(fd: number): string;
  /** A shared lock of an open file description (fcntl(2), F_OFD_SETLK), without waiting: whether it is ours now. */
  lockRange(fd: number, start: number, length: number): boolean;
  /** Whether somebody else holds any lock within the range. */
  rangeLocked(fd: number, start: number, length: number): boolean;
  /** Whether anybody has the file open for writing; `fd` is open for reading only. Throws where a lease cannot tell. */
  hasWriter(fd: number): boolean;
  /** Makes `to` share all blocks of `from` (ioctl_ficlone(2)), on stable storage. Rejects with EOPNOTSUPP, EXDEV, ENOSPC … */
  cloneFile(to: number, from: number): Promise<void>;
  /**
   * Makes the range read as zeros, without space where the file or device can give it back. Never makes a file longer than
   * the range needs. Rejects with an errno's name.
   */
  zeroRange(fd: number, offset: number, length: number): Promise<void>;
  /** Sends `text` to the service manager's socket (sd_notify(3)). */
  notifyManager(path: string, text: string): void;
}

let addon: Addon | undefined;

/** Throws ADDON_MISSING. */
export function loadAddon(): Addon {
  if (addon) return addon;
  const path =
    process.env['ASOF_ADDON'] ?? new URL('../../build/Release/asof.node', import.meta.url).pathname;
  try {
    addon = createRequire(import.meta.url)(path) as Addon;
    return addon;
  } catch (error) {
    throw new AsofError(
      'ADDON_MISSING',
      `the native addon ${path} does not load: ${error instanceof Error ? error.message : String(error)}`,
      'npm run build:native builds it; it needs a C++20 compiler, libdeflate-dev, libzstd-dev, liblzma-dev, liblz4-dev, libsnappy-dev and libbz2-dev',
      { cause: error },
    );
  }
}

/** A file that the engine may read. */
export interface EngineFile {
  readonly fd: number;
  readonly path: string;
}

/** The extent engine: what all disks of a process share (threads, the cache of unpacked blocks, the map). */
export class Engine {
  readonly #native: NativeEngine;
  readonly #ids = new WeakMap<EngineFile, number>();

  constructor(options: EngineOptions) {
    this.#native = new (loadAddon().Engine)(options);
  }

  /** The engine's number of `file`, which it gets at first sight. */
  fileId(file: EngineFile): number {
    let id = this.#ids.get(file);
    if (id === undefined) {
      id = this.#native.addFile(file.fd, file.path);
      this.#ids.set(file, id);
    }
    return id;
  }

  openDisk(...args: Parameters<NativeEngine['openDisk']>): NativeDisk {
    return this.#native.openDisk(...args);
  }

  stats(): EngineStats {
    return this.#native.stats();
  }

  close(): void {
    this.#native.close();
  }
}
