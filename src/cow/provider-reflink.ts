/**
 * The provider `reflink`: the snapshot is a file that shares the origin's blocks (ioctl_ficlone(2)), on XFS and btrfs.
 * It needs no store, and once it is made not even the origin. The kernel holds the origin's writers for the time of the
 * call, each volume by itself: it takes no groups.
 *
 * The file lies in the volume's folder where that is on the origin's file system, else beside the origin, in `.asof-<volume>`.
 * It is written under a temporary name, synced and renamed, so that what is there is whole.
 */
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmdirSync,
  statSync,
  truncateSync,
  unlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import { syncFolder } from '../sync-folder.js';
import { openFileDisk } from './file-disk.js';
import type { ProviderVolume, SnapshotProvider } from './provider.js';

/** What trying has shown of an origin: why not, or empty. */
const TRIED = new WeakMap<ProviderVolume['origin'], string>();

export const reflink: SnapshotProvider = {
  name: 'reflink',
  can: {
    group: false,
    freeze: false,
    persistent: true,
    tracked: false,
    independent: true,
    release: false,
    preserves: true,
  },

  async unavailable(volume) {
    const { origin } = volume;
    if (origin.device) return `${origin.path} is a block device; a reflink is of a file`;
    const known = TRIED.get(origin);
    if (known !== undefined) return known || undefined;
    const why = await attempt(volume);
    TRIED.set(origin, why);
    return why || undefined;
  },

  async take(requests, _group, _timeoutMs) {
    const [request, second] = requests;
    if (!request || second) throw new Error('a reflink is of one volume');
    const { volume, id } = request;
    const folder = makeFolder(volume);
    const path = join(folder, id);
    const epoch = volume.native.activity().epoch;
    const began = process.hrtime.bigint();
    const time = Date.now();
    const fd = openSync(`${path}.new`, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      await loadAddon().cloneFile(fd, volume.origin.fd);
    } catch (error) {
      unlinkSync(`${path}.new`);
      throw error;
    } finally {
      closeSync(fd);
    }
    const holdNs = Number(process.hrtime.bigint() - began);
    renameSync(`${path}.new`, path);
    chmodSync(path, 0o400);
    syncFolder(folder);
    return { time, holdNs, switchNs: holdNs, epochs: [epoch] };
  },

  /** In which epoch it was made is not known: 0 is before all of them. */
  list(volume) {
    const folder = folderOf(volume);
    return names(folder)
      .filter(name => UUID.test(name))
      .map(id => {
        const time = Math.floor(statSync(join(folder, id)).birthtimeMs);
        return { id, group: id, groupSize: 1, time, holdNs: 0, switchNs: 0, epoch: 0 };
      });
  },

  states(volume) {
    const folder = folderOf(volume);
    return id => {
      const path = join(folder, id);
      try {
        const size = statSync(path).size;
        if (size >= volume.definition.size) return { state: 'live', why: '' };
        return {
          state: 'broken',
          why: `${path} has ${size} bytes, and should have ${volume.definition.size}`,
        };
      } catch (error) {
        return { state: 'broken', why: `${path}: ${errnoOf(error)}` };
      }
    };
  },

  open(volume, { id }) {
    return openFileDisk(join(folderOf(volume), id), volume.definition);
  },

  async delete(volume, { id }) {
    const folder = folderOf(volume);
    const path = join(folder, id);
    try {
      // A reader may have it open still; its space comes back at once, and what it reads from now on is an error.
      chmodSync(path, 0o600);
      truncateSync(path);
      unlinkSync(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      return;
    }
    syncFolder(folder);
    try {
      rmdirSync(folder);
    } catch {
      // Others are in it.
    }
  },

  async release() {
    throw Object.assign(new Error('a reflink shares its blocks whole'), { code: 'EOPNOTSUPP' });
  },
};

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

function folderOf(volume: ProviderVolume): string {
  const inside = join(volume.folder, 'reflink');
  const beside = join(dirname(volume.origin.path), `.asof-${volume.definition.id}`);
  if (existsSync(inside)) return inside;
  if (existsSync(beside)) return beside;
  return statSync(volume.folder).dev === fstatSync(volume.origin.fd).dev ? inside : beside;
}

function makeFolder(volume: ProviderVolume): string {
  const folder = folderOf(volume);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  // What a daemon that died left half made.
  for (const name of names(folder)) if (name.endsWith('.new')) unlinkSync(join(folder, name));
  return folder;
}

/** '' where a clone of nothing can be made beside the origin: the file system is asked, not its name. */
async function attempt(volume: ProviderVolume): Promise<string> {
  let folder: string;
  try {
    folder = makeFolder(volume);
  } catch (error) {
    return `cannot write beside ${volume.origin.path}: ${errnoOf(error)}`;
  }
  const path = join(folder, 'attempt.new');
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC, 0o600);
    try {
      await loadAddon().cloneFile(fd, volume.origin.fd);
      return '';
    } finally {
      closeSync(fd);
      unlinkSync(path);
    }
  } catch (error) {
    return `the file system of ${volume.origin.path} cannot clone it (${errnoOf(error)}); XFS and btrfs can`;
  } finally {
    try {
      rmdirSync(folder);
    } catch {
      // In use.
    }
  }
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
