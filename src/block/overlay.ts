/**
 * A writable view of a read-only disk: what is written lands in a layer, and the disk below is unchanged. The layer is thrown
 * away at the end, or kept in a file that is opened again for the same point and for no other (native/overlay_disk.h;
 * docs/formats.md, "The layer of an overlay").
 */
import { createHash, randomUUID } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readSync,
  realpathSync,
  unlinkSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import {
  type KeptLayer,
  loadAddon,
  type NativeLiveDisk,
  type NativeOverlay,
  type NativeReadable,
} from '../native.js';
import { syncFolder } from '../sync-folder.js';

/** The point below. */
export interface OverlayBase {
  readonly size: number;
  readonly native: NativeReadable;
  /** Everything that makes it this point and no other; only its digest is stored. */
  readonly identity: string;
  /** The same for people, who meet it in the message of a layer that belongs elsewhere. */
  readonly label: string;
}

/** Where the layer lies: in the file `path`, which is kept, or somewhere in the folder `scratch` until the end. */
export type LayerPlace = { readonly path: string } | { readonly scratch: string };

/** As it is told to people and programs. */
export interface OverlayInfo {
  /** The layer's file; null for one that is thrown away. */
  readonly file: string | null;
  /** Bytes that have been written, in whole blocks. */
  readonly written: number;
}

export class Overlay {
  readonly size: number;
  /** For the mount. */
  readonly native: NativeLiveDisk;
  readonly file: string | null;
  readonly #native: NativeOverlay;

  private constructor(size: number, native: NativeOverlay, file: string | null) {
    this.size = size;
    this.native = native.disk();
    this.file = file;
    this.#native = native;
  }

  /** Throws OVERLAY_UNUSABLE. `base` must stay open until `close` has resolved. */
  static async open(base: OverlayBase, place: LayerPlace): Promise<Overlay> {
    if ('scratch' in place) {
      const fd = openScratch(place.scratch);
      try {
        return new Overlay(base.size, await openNative(base, fd, null, place.scratch), null);
      } finally {
        closeSync(fd);
      }
    }
    const path = resolved(place.path);
    const fd = openKept(path) ?? (await make(base, path));
    try {
      return new Overlay(base.size, await openNative(base, fd, keptAs(base, false), path), path);
    } finally {
      closeSync(fd);
    }
  }

  info(): OverlayInfo {
    return { file: this.file, written: this.#native.facts().written };
  }

  /** How many files are open on it. */
  get readers(): number {
    return this.#native.facts().readers;
  }

  /** What was written to a kept layer is stable then. A second call does nothing. Throws OVERLAY_UNUSABLE where it is not. */
  async close(): Promise<void> {
    try {
      await this.#native.close();
    } catch (error) {
      throw unusable(
        this.file ?? 'a file that is thrown away',
        `not all of it could be written (${errnoOf(error)})`,
        '',
        error,
      );
    }
  }
}

function keptAs(base: OverlayBase, create: boolean): KeptLayer {
  const identity = createHash('sha256').update(base.identity).digest();
  return { create, id: randomUUID(), identity, label: base.label };
}

async function openNative(
  base: OverlayBase,
  file: number,
  kept: KeptLayer | null,
  path: string,
): Promise<NativeOverlay> {
  try {
    return await loadAddon().openOverlay({ base: base.native, file, kept });
  } catch (error) {
    if (error instanceof AsofError || errnoOf(error) === '') throw error;
    const hint = errnoOf(error) === 'ESTALE' ? `name another file than ${path}` : '';
    throw unusable(path, (error as Error).message, hint, error);
  }
}

/** linux/fcntl.h; the other half of O_TMPFILE is O_DIRECTORY. */
const TMPFILE = 0o20000000;

/** A file without a name: whatever becomes of this process, its space comes back. */
function openScratch(folder: string): number {
  try {
    return openSync(folder, constants.O_RDWR | constants.O_DIRECTORY | TMPFILE, 0o600);
  } catch (error) {
    // A file system that does not know it; what else is wrong is said by the second attempt.
    if (errnoOf(error) === 'ENOENT') throw unusable(folder, 'the folder does not exist', '', error);
  }
  const path = join(folder, `.asof-layer-${randomUUID()}`);
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    unlinkSync(path);
    return fd;
  } catch (error) {
    throw unusable(folder, errnoOf(error) || String(error), '', error);
  }
}

/** With the folder's symbolic links followed. Throws OVERLAY_UNUSABLE. */
function resolved(path: string): string {
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch (error) {
    throw unusable(path, `its folder: ${errnoOf(error)}`, '', error);
  }
}

/** The first bytes of a layer's file. */
const MAGIC = 'ASOFLAY1';

/** The file that is there, locked; undefined where there is none. Nothing but a layer is ever opened for writing. */
function openKept(path: string): number | undefined {
  try {
    const stat = lstatSync(path);
    if (!stat.isFile()) throw unusable(path, 'it is no regular file');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    if (error instanceof AsofError) throw error;
    throw unusable(path, errnoOf(error), '', error);
  }
  const flags = constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const fd = opened(path, constants.O_RDONLY | flags);
  try {
    // Of two copies of the header one may be damaged.
    const marks = [0, 4096].map(at => {
      const mark = Buffer.alloc(MAGIC.length);
      readSync(fd, mark, 0, mark.length, at);
      return mark.toString('latin1');
    });
    if (!marks.includes(MAGIC)) {
      throw unusable(
        path,
        'what lies there is no layer of an overlay',
        'name a file that does not exist yet',
      );
    }
    const writer = opened(path, constants.O_RDWR | flags);
    const same = fstatSync(writer).ino === fstatSync(fd).ino;
    if (same && lock(writer)) return writer;
    closeSync(writer);
    throw unusable(path, same ? 'another overlay has it' : 'it was replaced while it was opened');
  } finally {
    closeSync(fd);
  }
}

function opened(path: string, flags: number): number {
  try {
    return openSync(path, flags, 0o600);
  } catch (error) {
    throw unusable(path, errnoOf(error) || String(error), '', error);
  }
}

function lock(fd: number): boolean {
  try {
    return loadAddon().lockWhole(fd);
  } catch {
    return true; // a file system without locks
  }
}

/** Makes an empty layer; it has its name once it is whole. */
async function make(base: OverlayBase, path: string): Promise<number> {
  const early = `${path}.${randomUUID()}.new`;
  const fd = opened(early, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL);
  try {
    lock(fd);
    const layer = await openNative(base, fd, keptAs(base, true), path);
    // It lets go of its own duplicate of the descriptor; ours keeps the lock.
    await layer.close();
    fsyncSync(fd);
    linkSync(early, path);
    unlinkSync(early);
    syncFolder(dirname(path));
    return fd;
  } catch (error) {
    closeSync(fd);
    try {
      unlinkSync(early);
    } catch {
      // It has its name already.
    }
    if (error instanceof AsofError) throw error;
    throw unusable(
      path,
      errnoOf(error) === 'EEXIST' ? 'something lies there already' : String(error),
      '',
      error,
    );
  }
}

function unusable(path: string, why: string, hint = '', cause?: unknown): AsofError {
  return new AsofError('OVERLAY_UNUSABLE', `cannot use ${path} for the layer of an overlay: ${why}`, hint, {
    cause,
  });
}
