/**
 * Which process serves which mount: one small JSON file a mount in a folder of the user's, written by the server when
 * it is ready and removed when nothing of the mount is left in it. So `asof umount`, from another process, knows for
 * whom to wait; and a mount whose server was killed is known without touching it.
 *
 * A process is named by its id and its start time, for ids are reused. The folder is a convenience: where it cannot be
 * had, mounts work without.
 */
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listMounts, type MountEntry } from './mounts.js';

export interface Server {
  readonly pid: number;
  /** Clock ticks after boot (field 22 of proc_pid_stat(5)). */
  readonly started: string;
}

export interface Registered extends Server {
  readonly mountPoint: string;
  readonly mountId: number;
  /** What is shown: the image's path. */
  readonly source: string;
}

/** A mount of ours, and who serves it where that is known. */
export interface AsofMount {
  readonly mount: MountEntry;
  readonly server: Registered | undefined;
}

/** Where this user's processes keep what lasts as long as they. */
export function runtimeFolder(): string {
  const runtime = process.env['XDG_RUNTIME_DIR'];
  if (runtime) return join(runtime, 'asof');
  return process.geteuid?.() === 0 ? '/run/asof' : join(tmpdir(), `asof-${process.geteuid?.()}`);
}

/** Folders to read: our own; for root also those of others. */
export function runtimeFolders(): string[] {
  const all = new Set([runtimeFolder()]);
  if (process.geteuid?.() === 0) {
    all.add('/run/asof');
    for (const user of names('/run/user')) all.add(join('/run/user', user, 'asof'));
    for (const name of names(tmpdir())) if (/^asof-\d+$/.test(name)) all.add(join(tmpdir(), name));
  }
  return [...all];
}

function names(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** The start time of the process `pid`; undefined where there is none. */
export function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command, field 2, may hold anything; what follows the last ")" are the fields from 3 on.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export function isRunning(server: Server): boolean {
  return startTime(server.pid) === server.started;
}

/** Whether it was stopped (SIGSTOP, a debugger), and does nothing until it goes on: proc_pid_stat(5). */
export function isHalted(server: Server): boolean {
  try {
    return isRunning(server) && /\) [Tt] /.test(readFileSync(`/proc/${server.pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

/** Writes that this process serves `mount`. The call that takes it back. */
export function register(mount: MountEntry): () => void {
  const entry: Registered = {
    pid: process.pid,
    started: startTime(process.pid) ?? '',
    mountPoint: mount.mountPoint,
    mountId: mount.id,
    source: mount.source,
  };
  const at = runtimeFolder();
  const path = join(at, `${entry.pid}-${entry.mountId}.json`);
  try {
    mkdirSync(at, { mode: 0o700, recursive: true });
    const stat = lstatSync(at);
    // In a folder that others may write to, somebody could have been there first.
    if (!stat.isDirectory() || stat.uid !== process.geteuid?.()) return () => {};
    writeFileSync(`${path}.new`, `${JSON.stringify(entry)}\n`, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  } catch {
    return () => {};
  }
  return () => remove(path);
}

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody removed it first.
  }
}

/** Every entry whose server runs; what a killed one left behind is removed on the way, where it is ours to remove. */
export function registered(): Registered[] {
  const running: Registered[] = [];
  for (const at of runtimeFolders()) {
    for (const name of names(at)) {
      if (!name.endsWith('.json')) continue;
      const path = join(at, name);
      const entry = read(path);
      if (entry && isRunning(entry)) running.push(entry);
      else if (at === runtimeFolder()) remove(path);
    }
  }
  return running;
}

function read(path: string): Registered | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (typeof value !== 'object' || value === null) return undefined;
    const { pid, started, mountPoint, mountId, source } = value as Record<string, unknown>;
    if (typeof pid !== 'number' || typeof started !== 'string' || typeof source !== 'string')
      return undefined;
    if (typeof mountPoint !== 'string' || typeof mountId !== 'number') return undefined;
    return { pid, started, mountPoint, mountId, source };
  } catch {
    return undefined;
  }
}

/** The running server of `mount`. */
export function serverOf(mount: MountEntry): Registered | undefined {
  return registered().find(entry => entry.mountId === mount.id && entry.mountPoint === mount.mountPoint);
}

/** Every mount of ours that this process sees, with its server; none where it was killed. */
export function listAsofMounts(): AsofMount[] {
  const servers = registered();
  const found: AsofMount[] = [];
  for (const mount of listMounts()) {
    const server = servers.find(entry => entry.mountId === mount.id && entry.mountPoint === mount.mountPoint);
    if (server || mount.type === 'fuse.asof') found.push({ mount, server });
  }
  return found;
}
