/**
 * The provider `btrfs`: a read-only snapshot of the subvolume in which the origin, a file, lies (btrfs-subvolume(8)). The
 * disk is the file of the same name in it. All else that lies in the subvolume is kept as well, for as long as the snapshot
 * is: give the origin a subvolume of its own. The top of a file system is no such one, and is refused.
 *
 * It lies in SUBVOLUME/.asof-snapshots/<volume>/<milliseconds>-<id>, and gets that name once it is known that writers were held
 * until it was there. A snapshot never holds other subvolumes, and so no
 * other snapshot: where they are it has empty folders. It takes no groups: subvolumes are snapshotted one after the other.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, statfsSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { errnoOf } from '../errors.js';
import { syncFolder } from '../sync-folder.js';
import { openFileDisk } from './file-disk.js';
import { whileHeld } from './hold.js';
import type { ProviderVolume, SnapshotProvider } from './provider.js';
import { runTool } from './tool.js';

/** linux/magic.h */
const BTRFS_MAGIC = 0x9123683e;
/** Of the root folder of each subvolume, linux/btrfs_tree.h: BTRFS_FIRST_FREE_OBJECTID. */
const ROOT_INODE = 256;
/** Of the file system itself: BTRFS_FS_TREE_OBJECTID. */
const TOP = '5';

/** Milliseconds for what nobody waits for. */
const PATIENCE_MS = 30_000;

export const btrfs: SnapshotProvider = {
  name: 'btrfs',
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
    const { path, device } = volume.origin;
    if (device) return `${path} is a block device; a subvolume holds files`;
    if (statfsSync(path).type !== BTRFS_MAGIC) return `${path} is not on btrfs`;
    const root = subvolumeOf(path);
    if (root === undefined) return `the subvolume of ${path} cannot be reached`;
    let id: string;
    try {
      id = (await runTool('btrfs', ['inspect-internal', 'rootid', root], PATIENCE_MS)).trim();
    } catch (error) {
      return (error as Error).message;
    }
    if (id !== TOP) return undefined;
    return `${path} lies in no subvolume of its own, but at the top of the file system on ${root}`;
  },

  async take(requests, _group, timeoutMs) {
    const [request, second] = requests;
    if (!request || second) throw new Error('a subvolume is one volume’s');
    const { volume, id } = request;
    const root = rootOf(volume);
    const folder = folderOf(volume, root);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const place = join(folder, `${NEW}${id}`);
    const taken = await whileHeld([volume], timeoutMs, async () => {
      await runTool('btrfs', ['-q', 'subvolume', 'snapshot', '-r', root, place], timeoutMs);
    });
    renameSync(place, join(folder, `${taken.time}-${id}`));
    syncFolder(folder);
    return taken;
  },

  /** In which epoch it was made is not known: 0 is before all of them. */
  async list(volume) {
    const folder = folderOf(volume);
    if (folder === undefined) return [];
    // What a daemon that died left half made.
    for (const name of entries(folder))
      if (name.startsWith(NEW)) await remove(folder, name).catch(() => undefined);
    return names(folder).map(({ id, time }) => {
      return { id, group: id, groupSize: 1, time, holdNs: 0, switchNs: 0, epoch: 0 };
    });
  },

  states(volume) {
    return id => {
      const path = fileOf(volume, id);
      if (path === undefined) return { state: 'broken', why: 'its subvolume is gone' };
      try {
        const { size } = statSync(path);
        if (size >= volume.definition.size) return { state: 'live', why: '' };
        const why = `${path} has ${size} bytes, and should have ${volume.definition.size}`;
        return { state: 'broken', why };
      } catch (error) {
        return { state: 'broken', why: `${path}: ${errnoOf(error)}` };
      }
    };
  },

  open(volume, { id }) {
    const path = fileOf(volume, id);
    if (path === undefined) throw new Error(`the subvolume of the snapshot ${id} is gone`);
    return openFileDisk(path, volume.definition);
  },

  async delete(volume, { id }) {
    const folder = folderOf(volume);
    if (folder === undefined) return;
    for (const name of entries(folder)) {
      // Whoever has the file open still reads it; its space comes back after the last one.
      if (name.endsWith(`-${id}`)) await remove(folder, name);
    }
    try {
      rmdirSync(folder);
      rmdirSync(dirname(folder));
    } catch {
      // Others are in it.
    }
  },

  async release() {
    throw Object.assign(new Error('a subvolume is kept whole'), { code: 'EOPNOTSUPP' });
  },
};

const NAME = /^(\d+)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

/** Before the id, in place of the time. */
const NEW = 'new-';

function entries(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}

async function remove(folder: string, name: string): Promise<void> {
  await runTool('btrfs', ['-q', 'subvolume', 'delete', '-c', join(folder, name)], PATIENCE_MS);
}

function names(folder: string): { name: string; time: number; id: string }[] {
  return entries(folder).flatMap(name => {
    const [, time, id] = NAME.exec(name) ?? [];
    return id === undefined ? [] : [{ name, time: Number(time), id }];
  });
}

/** The root folder of the subvolume in which `path` lies; undefined where a mount shows a part of it only. */
function subvolumeOf(path: string): string | undefined {
  const { dev } = statSync(path);
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const stat = statSync(folder);
    if (stat.dev !== dev) return undefined;
    if (stat.ino === ROOT_INODE) return folder;
    if (folder === dirname(folder)) return undefined;
  }
}

function rootOf(volume: ProviderVolume): string {
  const root = subvolumeOf(volume.origin.path);
  if (root === undefined) throw new Error(`the subvolume of ${volume.origin.path} cannot be reached`);
  return root;
}

function folderOf(volume: ProviderVolume, root: string): string;
function folderOf(volume: ProviderVolume): string | undefined;
function folderOf(volume: ProviderVolume, root?: string): string | undefined {
  const there = root ?? (volume.origin.device ? undefined : subvolumeOf(volume.origin.path));
  return there === undefined ? undefined : join(there, '.asof-snapshots', volume.definition.id);
}

function fileOf(volume: ProviderVolume, id: string): string | undefined {
  const root = subvolumeOf(volume.origin.path);
  const folder = root === undefined ? undefined : folderOf(volume, root);
  const found = folder === undefined ? undefined : names(folder).find(one => one.id === id);
  if (root === undefined || folder === undefined || !found) return undefined;
  return join(folder, found.name, relative(root, volume.origin.path));
}
