/**
 * Who has files of a folder open: mounts of ours that show it, loop devices, and processes. Read from /proc and /sys; without
 * root, other users' processes stay unseen.
 */
import { realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { fileHolders } from './holders.js';
import { listAsofMounts } from './registry.js';

/**
 * The first that is found, in words; undefined where nobody is. `paths` are files in `folder`; none means any but hidden ones.
 * A mount of the folder, or of a file in it, holds all.
 */
export async function holderOfFiles(folder: string, paths: readonly string[]): Promise<string | undefined> {
  const real = realpathSync(folder);
  const inFolder = (path: string) => path === real || dirname(path) === real;
  for (const { server } of listAsofMounts()) {
    if (server && inFolder(realOf(server.source))) {
      return `the mount on ${server.mountPoint} (pid ${server.pid})`;
    }
  }
  const names = new Set(paths.map(path => basename(path)));
  const held = (path: string) => {
    if (dirname(path) !== real) return false;
    const name = basename(path);
    return names.size === 0 ? !name.startsWith('.') : names.has(name);
  };
  const [first] = await fileHolders(held);
  return first?.who;
}

function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
