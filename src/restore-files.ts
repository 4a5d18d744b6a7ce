/**
 * Files and folders out of a point: by cp(1) of GNU coreutils, which keeps owner, mode, times, links, extended attributes,
 * ACLs and holes, from a read-only mount of the point's file system.
 *
 * No PATH leads out of that: `..` and symbolic links on the way are refused (the last name may be a link, and is copied as
 * one). What is copied lies in a folder of its own in DIR until all of it is there, then it gets its names; a run that fails
 * takes it away, and nothing that was in DIR before is touched.
 */
import { execFile } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { AsofError, errnoOf } from './errors.js';
import { FileView, type Replay, type ViewOptions } from './file-view.js';
import type { NamedPoint } from './named-point.js';

export interface FilesRequest extends ViewOptions {
  readonly paths: readonly string[];
  readonly into: string;
  readonly partition: number | undefined;
  readonly dryRun: boolean;
  readonly signal: AbortSignal | undefined;
}

export interface FilesRestored {
  readonly point: string;
  readonly time: string;
  readonly fileSystem: string;
  readonly replay: Replay;
  readonly into: string;
  readonly dryRun: boolean;
  /** What it is in the point, and where it is now. */
  readonly files: readonly { readonly from: string; readonly to: string }[];
}

/** Owns the point. Throws NOT_FOUND, TARGET_OCCUPIED, RESTORE_FAILED, and what mounting throws. */
export async function restoreFiles(point: NamedPoint, request: FilesRequest): Promise<FilesRestored> {
  const into = resolve(request.into);
  let view: FileView | undefined;
  try {
    if (!statSync(into, { throwIfNoEntry: false })?.isDirectory()) {
      throw new AsofError('NOT_FOUND', `${into} is no folder`);
    }
    await needCp();
    view = await FileView.open(point, request.partition, request, request.signal);
    const files = planned(view.path, request.paths, into);
    const { id, time } = point;
    const told = {
      point: id,
      time: time.toISOString(),
      fileSystem: view.type,
      replay: view.replay,
      into,
      files,
    };
    if (!request.dryRun) await copy(view.path, files, into, request.signal);
    return { ...told, dryRun: request.dryRun };
  } finally {
    if (view) await view.close();
    else point.close();
  }
}

interface Planned {
  readonly from: string;
  readonly to: string;
}

function planned(root: string, paths: readonly string[], into: string): Planned[] {
  const found: Planned[] = [];
  for (const path of paths) {
    const names = safeNames(root, path);
    // The root itself is all that is in it.
    const all = names.length > 0 ? [names] : readdirSync(root).map(name => [name]);
    for (const one of all) {
      const to = join(into, one.at(-1)!);
      const twice = found.find(other => other.to === to);
      if (twice) throw new AsofError('USAGE', `${twice.from} and ${path} would both become ${to}`);
      if (lstatSync(to, { throwIfNoEntry: false })) {
        throw new AsofError('TARGET_OCCUPIED', `${to} is there already`, 'name another folder by --into');
      }
      found.push({ from: `/${one.join('/')}`, to });
    }
  }
  return found;
}

/** The names of a path within the file system `root`. Throws USAGE or NOT_FOUND. */
function safeNames(root: string, path: string): string[] {
  const names = path.split('/').filter(name => name !== '' && name !== '.');
  if (names.includes('..') || path.includes('\0')) {
    throw new AsofError(
      'USAGE',
      `${JSON.stringify(path)} leads upwards`,
      'a path begins at the root of the file system',
    );
  }
  let at = root;
  names.forEach((name, i) => {
    at = join(at, name);
    const here = `/${names.slice(0, i + 1).join('/')}`;
    let stat: ReturnType<typeof lstatSync>;
    try {
      stat = lstatSync(at);
    } catch (error) {
      const errno = errnoOf(error);
      const gone = errno === 'ENOENT' || errno === 'ENOTDIR';
      throw new AsofError(gone ? 'NOT_FOUND' : 'IO', `${here} is not in the point: ${errno}`, '', {
        cause: error,
      });
    }
    if (stat.isSymbolicLink() && i < names.length - 1) {
      throw new AsofError(
        'USAGE',
        `${here} is a symbolic link, which is not followed`,
        'name where it leads to',
      );
    }
  });
  return names;
}

async function copy(
  root: string,
  files: readonly Planned[],
  into: string,
  signal?: AbortSignal,
): Promise<void> {
  const stage = mkdtempSync(join(into, '.asof-restore-'));
  try {
    for (const { from } of files) await cp(join(root, from), stage, signal);
    const fd = openSync(stage, 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    await program('sync', ['--file-system', stage], signal);
    for (const { to } of files) {
      if (existsSync(to)) throw new AsofError('TARGET_OCCUPIED', `${to} has appeared meanwhile`);
      renameSync(join(stage, basename(to)), to);
    }
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

function cp(from: string, into: string, signal?: AbortSignal): Promise<void> {
  // Said by name, what cannot be kept is an error.
  const keep = '--preserve=mode,ownership,timestamps,links,xattr';
  const how = ['--recursive', '--no-dereference', keep, '--sparse=always', '--reflink=never'];
  return program('cp', [...how, '--target-directory', into, '--', from], signal);
}

async function needCp(): Promise<void> {
  const version = await new Promise<string>(done =>
    execFile('cp', ['--version'], (_error, stdout) => done(stdout)),
  );
  if (/GNU coreutils/.test(version)) return;
  throw new AsofError('RESTORE_FAILED', 'cp of GNU coreutils is not there, which keeps attributes and holes');
}

function program(name: string, args: readonly string[], signal?: AbortSignal): Promise<void> {
  return new Promise((done, failed) => {
    const options = { env: { ...process.env, LC_ALL: 'C' }, signal, maxBuffer: 2 ** 26 };
    execFile(name, [...args], options, (error, _stdout, stderr) => {
      if (!error) return done();
      const why = signal?.aborted
        ? 'it was stopped'
        : stderr.trim().split('\n').slice(0, 3).join('; ') || error.message;
      failed(
        new AsofError('RESTORE_FAILED', `the files could not be copied: ${why}; nothing of them is left`),
      );
    });
  });
}
