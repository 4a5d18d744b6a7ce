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

/** One disk in the engine. */
export interface NativeDisk {
  /** Fills `buffer` from `offset`. Rejects with DAMAGED; the range has been checked by the caller. */
  read(offset: number, buffer: Uint8Array): Promise<void>;
  /** lseek(2) with SEEK_DATA, or SEEK_HOLE where `hole`: -1 where there is no more data. */
  seek(offset: number, hole: boolean): Promise<number>;
  /** The engine's descriptor of the one plain file that this disk is (a mount may pass it through), else -1. */
  wholeFile(): Promise<number>;
  /** What reads have met so far, in order, joined. */
  defects(): NativeDefect[];
  /**
   * Has the map know what lies at `offset`, asking `resolve` where it does not yet. Where the region ends, and how many
   * of its bytes from `offset` on are no zero runs; undefined where there is no answer.
   */
  learn(offset: number): { readonly end: number; readonly allocated: number } | undefined;
  /** Tells the engine how many bytes are no zero runs, once they have been counted. */
  setAllocated(bytes: number): void;
  /** Reads under way end first (on their threads); later ones fail. */
  close(): void;
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
  /** Of kind `disk`. */
  readonly disk?: NativeDisk;
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
  /** The content of a text file, asked at each open and stat. */
  readonly text: (id: number) => string;
  /** The id of the entry that an unlisted name of a directory stands for; 0 where there is none. */
  readonly find: (parent: number, name: string) => number;
  /** Called once, on the JavaScript thread, when every worker has ended: 0 after an unmount, else the errno. */
  readonly ended: (errno: number) => void;
}

/** What the kernel and the session agreed on, for the log and for tests. */
export interface SessionFacts {
  readonly protocol: string;
  readonly maxRead: number;
  readonly threads: number;
  readonly uring: boolean;
  readonly passthrough: boolean;
}

export interface NativeSession {
  /** Resolves when FUSE_INIT has been answered. */
  ready(): Promise<SessionFacts>;
  /** Ends the workers without an unmount (the connection is aborted); `ended` follows. */
  abort(): void;
}

export interface Addon {
  Engine: new (options: EngineOptions) => NativeEngine;
  Session: new (options: SessionOptions) => NativeSession;
  /** mount(2) of a FUSE file system: the open descriptor of /dev/fuse. Throws an error whose `code` is the errno's name. */
  mountFuse(mountPoint: string, source: string, allowOther: boolean): number;
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
      'npm run build:native builds it; it needs a C++20 compiler, libdeflate-dev and libzstd-dev',
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
