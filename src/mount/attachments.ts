/**
 * What `asof attach` has made, one folder an attachment. `attachment.json` says what belongs to it, `disk` is where the mount
 * of asof stands on which its loop device does. All that belongs to an attachment can be told by that folder's path, so that
 * nothing of others is ever taken for ours, and each step is written down before it is taken: whoever is killed leaves
 * behind what the next one knows.
 *
 * States: attaching (its process runs, or it is stale) → attached (its server runs, or it is stale) → gone.
 */
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { list } from '../sysfs.js';
import { isRunning, runtimeFolder, runtimeFolders, type Server, startTime } from './registry.js';

export interface AttachedFileSystem {
  /** Of the partition; null for the disk as a whole. */
  readonly number: number | null;
  /** ext4, xfs and so on. */
  readonly type: string;
  /** The device or, without root, the file that is mounted. */
  readonly source: string;
  readonly mountPoint: string;
  /** We made that folder. */
  readonly made: boolean;
}

export interface AttachedPartition {
  readonly number: number;
  readonly device: string;
}

export interface Attachment {
  /** Its folder. */
  readonly folder: string;
  readonly state: 'attaching' | 'attached';
  /** The process that attaches, then the server of the mount; null where that is not known. */
  readonly process: Server | null;
  /** What was asked for, with an absolute path; and what that is. */
  readonly asked: string;
  readonly point: { readonly id: string; readonly label: string; readonly time: string };
  /** The image or the folder that is mounted; null where the point was named by its path in a mount. */
  readonly path: string | null;
  /** The mount of asof, and whether it was made for this. */
  readonly mountPoint: string;
  readonly own: boolean;
  /** The file of the disk, below the attachment's own folder. */
  readonly disk: string;
  /** null without root. */
  readonly device: string | null;
  readonly partitions: readonly AttachedPartition[];
  readonly dir: string | null;
  readonly fileSystems: readonly AttachedFileSystem[];
}

const RECORD = 'attachment.json';

/** Where the mount of asof, or another place of it, is. */
export function diskFolderOf({ folder }: Pick<Attachment, 'folder'>): string {
  return join(folder, 'disk');
}

/** A new folder, which this process has. Throws IO. */
export function newAttachment(): string {
  const at = join(runtimeFolder(), 'attach');
  try {
    mkdirSync(at, { recursive: true, mode: 0o700 });
    for (const path of [runtimeFolder(), at]) {
      const stat = lstatSync(path);
      // In a folder that others may write to, somebody could have been there first.
      if (stat.isDirectory() && stat.uid === process.geteuid?.()) continue;
      throw new Error(`${path} belongs to another user`);
    }
    const folder = mkdtempSync(join(at, `${process.pid}-${startTime(process.pid) ?? ''}-`));
    mkdirSync(join(folder, 'disk'), { mode: 0o700 });
    return folder;
  } catch (error) {
    const why = errnoOf(error) || (error instanceof Error ? error.message : String(error));
    throw new AsofError('IO', `cannot keep in ${at} what is attached: ${why}`, '', { cause: error });
  }
}

export function writeAttachment(attachment: Attachment): void {
  const path = join(attachment.folder, RECORD);
  writeFileSync(`${path}.new`, `${JSON.stringify(attachment)}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Those of this user, for root those of all; and folders that have no record, for who made one may be about to write it. */
export function listAttachments(): { readonly attachments: Attachment[]; readonly bare: string[] } {
  const attachments: Attachment[] = [];
  const bare: string[] = [];
  for (const at of runtimeFolders()) {
    for (const name of list(join(at, 'attach'))) {
      const folder = join(at, 'attach', name);
      const attachment = read(folder);
      if (attachment) attachments.push(attachment);
      else bare.push(folder);
    }
  }
  return { attachments, bare };
}

/** Whether the record is what it was when it was read; of a folder without one, whether it still has none. */
export function isUnchanged(attachment: Attachment | { readonly folder: string }): boolean {
  const now = read(attachment.folder);
  return 'process' in attachment ? JSON.stringify(now) === JSON.stringify(attachment) : now === undefined;
}

function read(folder: string): Attachment | undefined {
  try {
    const found = JSON.parse(readFileSync(join(folder, RECORD), 'utf8')) as Attachment;
    return found.folder === folder && Array.isArray(found.fileSystems) ? found : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the process that a folder's name names has gone, or never was. */
export function isAbandoned(folder: string): boolean {
  const [pid, started] = basename(folder).split('-');
  return started === undefined || started === '' || !isRunning({ pid: Number(pid), started });
}

/** Folders that were made to mount on, where they are empty. */
export function removeMade({ fileSystems }: Attachment): void {
  for (const { made, mountPoint } of fileSystems) {
    if (!made) continue;
    try {
      rmdirSync(mountPoint);
    } catch {
      // It is not there, or somebody has put something into it.
    }
  }
}

/** Nothing of it is mounted any more. Throws what removing throws. */
export function forgetAttachment({ folder }: Pick<Attachment, 'folder'>): void {
  for (const remove of [
    () => rmdirSync(join(folder, 'disk')),
    () => unlinkSync(join(folder, RECORD)),
    () => unlinkSync(join(folder, `${RECORD}.new`)),
    () => rmdirSync(folder),
  ]) {
    try {
      remove();
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
}
