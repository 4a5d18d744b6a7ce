/**
 * Where the files that an image names may be found.
 *
 * The folders: the one of the image that names, the one of the file that the user named (a symbolic link stands in
 * two), then each `--search` folder. Where the name itself leads into one of them, that file comes first. In each, a
 * relative name without `..` is tried as it is, then its last component alone; of an absolute name, only the last
 * component counts. What is found must, with every symbolic link followed, lie within one of these folders. A name
 * with a protocol (`nbd:`, `json:`) is refused.
 */
import { readdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, resolve, sep } from 'node:path';
import { ImageFile } from '../block/file.js';
import { AsofError, errnoOf } from '../errors.js';
import { command } from '../shell.js';

/** Why a file is not the one that is meant; undefined where it is. */
export type Refuse = (file: ImageFile) => AsofError | undefined;

/** After these another name of the same file is tried. */
const PASSED_OVER = new Set(['PARENT_FORBIDDEN', 'PARENT_MISSING', 'CHAIN_CYCLE']);

export class Lookup {
  readonly #top: string;
  readonly #search: readonly string[];
  readonly #members = new Map<string, string>();

  constructor(path: string, search: readonly string[]) {
    this.#top = path;
    this.#search = search.map(folder => resolve(folder));
  }

  /** Notes a member of the chain by its device and inode. */
  opened(identity: string, path: string): void {
    this.#members.set(identity, path);
  }

  /**
   * The file that `wanting` names `name`, or by one of `others`. `refuse` says why one that was found is not the one
   * that is meant; it is passed over then, and the first such reason is thrown where no other file is found.
   * Throws PARENT_FORBIDDEN, PARENT_MISSING, CHAIN_CYCLE, or what opening it throws.
   */
  open(
    name: string,
    wanting: string,
    role: 'parent' | 'data file',
    { others = [], refuse }: { others?: readonly string[]; refuse?: Refuse | undefined } = {},
  ): ImageFile {
    let last: AsofError | undefined;
    let refused: AsofError | undefined;
    for (const one of [name, ...others]) {
      try {
        return this.#named(
          one,
          wanting,
          role,
          error => {
            refused ??= error;
          },
          refuse,
        );
      } catch (error) {
        if (!(error instanceof AsofError) || !PASSED_OVER.has(error.code)) throw error;
        last ??= error;
      }
    }
    throw refused ?? last!;
  }

  /**
   * The file in the allowed folders of `wanting` that `may` and `refuse` take for its parent, of which only the
   * identity is known. Folders below are not looked into.
   */
  search(identity: string, wanting: string, may: (file: ImageFile) => boolean, refuse: Refuse): ImageFile {
    let refused: AsofError | undefined;
    const folders = this.#folders(wanting);
    for (const folder of folders) {
      for (const name of listed(folder)) {
        const path = join(folder, name);
        const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
        if (!stat?.isFile() || this.#members.has(`${stat.dev}:${stat.ino}`)) continue;
        const real = realOf(path);
        if (real === undefined || !this.#isWithin(real, folders)) continue;
        const file = tryOpen(real);
        if (!file) continue;
        try {
          const why = may(file) ? refuse(file) : null;
          if (why === undefined) return file;
          if (why) refused ??= why;
        } catch (error) {
          file.close();
          throw error;
        }
        file.close();
      }
    }
    throw (
      refused ??
      new AsofError(
        'PARENT_MISSING',
        `${wanting} needs its parent, of which it knows nothing but ${identity}; no image in these folders has it: ${folders.join(', ')}`,
        '--search DIR names a folder to look in',
      )
    );
  }

  #isWithin(real: string, folders: readonly string[]): boolean {
    const roots = folders.map(realOf).filter(root => root !== undefined);
    return roots.some(root => real.startsWith(root.endsWith(sep) ? root : root + sep));
  }

  #named(
    name: string,
    wanting: string,
    role: 'parent' | 'data file',
    tell: (error: AsofError) => void,
    refuse: Refuse | undefined,
  ): ImageFile {
    const names = fileNames(name, wanting, role);
    const folders = this.#folders(wanting);
    const roots = folders.map(realOf).filter(root => root !== undefined);
    const tried = new Set<string>();
    let forbidden: AsofError | undefined;
    let cycle: AsofError | undefined;
    const stated = statedPath(name, wanting);
    const within = folders.some(folder => dirname(stated) === folder) ? [dirname(stated)] : [];
    for (const folder of [...within, ...folders]) {
      for (const one of names) {
        const path = join(folder, one);
        if (tried.has(path)) continue;
        tried.add(path);
        const real = realOf(path);
        if (real === undefined) continue;
        if (!roots.some(root => real.startsWith(root.endsWith(sep) ? root : root + sep))) {
          forbidden ??= new AsofError(
            'PARENT_FORBIDDEN',
            `the ${role} ${JSON.stringify(name)} of ${wanting} is ${path}, a link to ${real}, outside every allowed folder`,
            command`--search ${dirname(real)} allows that folder`,
          );
          continue;
        }
        const stat = statSync(real, { bigint: true, throwIfNoEntry: false });
        if (!stat) continue;
        const member = this.#members.get(`${stat.dev}:${stat.ino}`);
        if (member === undefined) {
          const file = ImageFile.open(real);
          const why = whyNot(file, refuse);
          if (why === undefined) return file;
          file.close();
          tell(why);
          continue;
        }
        // A base of the same name in another folder may still be meant.
        cycle ??= new AsofError(
          'CHAIN_CYCLE',
          `the ${role} ${JSON.stringify(name)} of ${wanting} is ${member}, which is already a member of the chain`,
          '--search DIR, where another file of that name is meant',
        );
      }
    }
    throw (
      forbidden ??
      cycle ??
      new AsofError(
        'PARENT_MISSING',
        `${wanting} needs its ${role} ${JSON.stringify(name)}, which is in none of: ${[...tried].join(', ')}`,
        '--search DIR names a folder to look in',
      )
    );
  }

  #folders(wanting: string): string[] {
    const own = [wanting, this.#top].flatMap(path => [dirname(path), dirname(realOf(path) ?? path)]);
    return [...new Set([...own, ...this.#search])];
  }
}

/** The path that `wanting` itself means by `name`; nothing is looked at. */
export function statedPath(name: string, wanting: string): string {
  return resolve(dirname(wanting), withoutFile(name));
}

function withoutFile(name: string): string {
  return name.replace(/^file:(?:\/\/)?/, '');
}

/** What to look for in each folder, in order. Throws PARENT_FORBIDDEN where the name is none of a file. */
function fileNames(name: string, wanting: string, role: string): string[] {
  const refuse = (why: string) =>
    new AsofError(
      'PARENT_FORBIDDEN',
      `${wanting} names its ${role} ${JSON.stringify(name)}: ${why}`,
      'only files in the folder of the image and in --search folders are opened',
    );
  const windows = /^[A-Za-z]:[\\/]/.test(name);
  const path = withoutFile(name);
  if (!windows && /^[^/]*:/.test(path)) throw refuse('that is a protocol, not a file');
  if (path.includes('\0')) throw refuse('it contains a zero byte');
  const parts = path.split(windows ? /[\\/]/ : '/').filter(part => part !== '' && part !== '.');
  const base = parts.at(-1);
  if (base === undefined || base === '..') throw refuse('that is a folder');
  const relative = !windows && !path.startsWith('/') && !parts.includes('..');
  return relative && parts.length > 1 ? [parts.join('/'), base] : [base];
}

function whyNot(file: ImageFile, refuse: Refuse | undefined): AsofError | undefined {
  try {
    return refuse?.(file);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Names in a folder, in order; none where it cannot be listed. */
function listed(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

/** A file of the folder that may be opened; what may not is none that could be meant. */
function tryOpen(path: string): ImageFile | undefined {
  try {
    return ImageFile.open(path);
  } catch (error) {
    if (error instanceof AsofError) return undefined;
    throw error;
  }
}

/** The path with every link followed; undefined where nothing is there. */
function realOf(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(errnoOf(error))) return undefined;
    throw new AsofError('IO', `cannot follow ${path}: ${errnoOf(error)}`, '', { cause: error });
  }
}
