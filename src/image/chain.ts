/**
 * A chain: an image and what it stands on, opened by policy.
 *
 * What an image says about other files is not to be trusted: it may have come from anywhere. A name inside an image
 * is therefore only looked up in folders that the user chose: the image's own, the one of the file that the user
 * named, and each `--search` folder (docs/formats.md says it for users; src/image/lookup.ts does it). The format of
 * a parent is the one that the child states; where it states none, a parent is recognised by its magic and never
 * taken for raw by accident.
 */
import { fstatSync } from 'node:fs';
import { resolve } from 'node:path';
import { ImageFile } from '../block/file.js';
import { AsofError } from '../errors.js';
import { formatNamed, type Image, type ImageFormat, type ParentLink, recognise } from './format.js';
import { Lookup } from './lookup.js';
import { raw } from './raw.js';

/** Members of a chain; more are refused. */
export const MAX_DEPTH = 1024;

/** Internal snapshots of all members together, and characters of their names: what one image may have (qcow2-snapshots.ts). */
const MOST_SNAPSHOTS = 65536;
const MOST_NAMES = 64 * 2 ** 20;

export interface ChainOptions {
  /** Folders in which parents and data files may be found, after the image's own. */
  readonly search?: readonly string[];
  /** The format of the named file; recognised where absent, and raw where nothing recognises it. */
  readonly format?: string | undefined;
  /** The format of a parent whose child does not state it and which nothing recognises. Refused where absent. */
  readonly parentFormat?: string | undefined;
}

export interface Chain {
  /** The named image first, each before the one that it stands on. */
  readonly members: readonly Image[];
  /** Every file that the chain holds open, data files included. */
  readonly files: readonly ImageFile[];
  /** Closes every file; the points of the chain are of no use after it. A second call does nothing. */
  close(): void;
}

/**
 * Opens `path` and what it stands on.
 * Throws what opening a file or a format throws, PARENT_MISSING, PARENT_MISMATCH, PARENT_FORBIDDEN, CHAIN_CYCLE, CHAIN_TOO_DEEP or
 * FORMAT_UNKNOWN; nothing stays open then.
 */
export function openChain(path: string, options: ChainOptions = {}): Chain {
  const files: ImageFile[] = [];
  const close = () => {
    for (const file of files.splice(0)) file.close();
  };
  try {
    return { members: openMembers(resolve(path), options, files), files, close };
  } catch (error) {
    close();
    throw error;
  }
}

function openMembers(path: string, options: ChainOptions, files: ImageFile[]): Image[] {
  const members: Image[] = [];
  const lookup = new Lookup(path, options.search ?? []);
  let snapshots = 0;
  let names = 0;
  let file = ImageFile.open(path);
  files.push(file);
  lookup.opened(identity(file), path);
  let format = options.format === undefined ? (recognise(file) ?? raw) : formatNamed(options.format);
  for (;;) {
    const wanting = file.path;
    const image = format.open(file, {
      companion: name => {
        const data = lookup.open(name, wanting, 'data file');
        files.push(data);
        return data;
      },
    });
    members.push(image);
    for (const { id, name } of image.snapshots) names += id.length + name.length;
    snapshots += image.snapshots.length;
    if (snapshots > MOST_SNAPSHOTS || names > MOST_NAMES) {
      throw new AsofError(
        'IMAGE_UNSUPPORTED',
        `the chain of ${path} has more internal snapshots than are supported: ${snapshots} down to ${wanting}, with ${names} characters of names; at most ${MOST_SNAPSHOTS} and ${MOST_NAMES}`,
      );
    }
    const { parent } = image;
    if (!parent) return members;
    if (members.length >= MAX_DEPTH) {
      throw new AsofError(
        'CHAIN_TOO_DEEP',
        `the chain of ${path} has more than ${MAX_DEPTH} members; ${wanting} still names a parent`,
      );
    }
    file = openParent(parent, wanting, lookup, options.parentFormat);
    files.push(file);
    lookup.opened(identity(file), file.path);
    format = parentFormat(file, parent.format, wanting, options.parentFormat);
  }
}

/** Finds the file of a parent by its name, or by what else the child knows of it. */
function openParent(
  parent: ParentLink,
  wanting: string,
  lookup: Lookup,
  otherwise: string | undefined,
): ImageFile {
  const refuse = parent.refuses && ((file: ImageFile) => mismatch(parent, file, wanting, lookup, otherwise));
  if (parent.byIdentity && refuse) return lookup.search(parent.name, wanting, parent.byIdentity.may, refuse);
  return lookup.open(parent.name, wanting, 'parent', { others: parent.others ?? [], refuse });
}

/** Why `file` is not the parent that `wanting` means. */
function mismatch(
  parent: ParentLink,
  file: ImageFile,
  wanting: string,
  lookup: Lookup,
  otherwise: string | undefined,
): AsofError | undefined {
  const opened: ImageFile[] = [];
  const companion = (name: string) => {
    const data = lookup.open(name, file.path, 'data file');
    opened.push(data);
    return data;
  };
  try {
    const image = parentFormat(file, parent.format, wanting, otherwise).open(file, { companion });
    const why = parent.refuses?.(image);
    if (why === undefined) return undefined;
    return new AsofError(
      'PARENT_MISMATCH',
      `${file.path} is not the parent that ${wanting} was made on: ${why}`,
      '--search DIR names a folder that holds the right one',
    );
  } catch (error) {
    if (error instanceof AsofError && error.code !== 'IO') return error;
    throw error;
  } finally {
    for (const one of opened) one.close();
  }
}

/** The format of a parent: stated by the child, else recognised, else what the user says. */
function parentFormat(
  file: ImageFile,
  stated: string | undefined,
  child: string,
  otherwise: string | undefined,
): ImageFormat {
  if (stated !== undefined) return formatNamed(stated);
  const found = recognise(file);
  if (found) return found;
  if (otherwise !== undefined) return formatNamed(otherwise);
  throw new AsofError(
    'FORMAT_UNKNOWN',
    `${child} does not state the format of its parent ${file.path}, and no format recognises it`,
    '--parent-format raw, where the parent is known to be raw',
  );
}

/** Device and inode: what makes two names one file. */
function identity(file: ImageFile): string {
  const { dev, ino } = fstatSync(file.fd, { bigint: true });
  return `${dev}:${ino}`;
}
