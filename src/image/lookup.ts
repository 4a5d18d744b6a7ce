/**
 * Where the files that an image names may be found.
 *
 * The folders: the one of the image that names, the one of the file that the user named (a symbolic link stands in
 * two), then each `--search` folder. Where the name itself leads into one of them, that file comes first. In each, a
 * relative name without `..` is tried as it is, then its last component alone; of an absolute name, only the last
 * component counts. What is found must, with every symbolic link followed, lie within one of these folders. A name
 * with a protocol (`nbd:`, `json:`) is refused.
 */
import { realpathSync, statSync } from 'node:fs';
import { dirname, join, resolve, sep } from 'node:path';
import { ImageFile } from '../block/file.js';
import { AsofError, errnoOf } from '../errors.js';
import { command } from '../shell.js';

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
   * The file that `wanting` names `name`.
   * Throws PARENT_FORBIDDEN, PARENT_MISSING, CHAIN_CYCLE, or what opening it throws.
   */
  open(name: string, wanting: string, role: 'parent' | 'data file'): ImageFile {
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
        if (member === undefined) return ImageFile.open(real);
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

/** The path with every link followed; undefined where nothing is there. */
function realOf(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(errnoOf(error))) return undefined;
    throw new AsofError('IO', `cannot follow ${path}: ${errnoOf(error)}`, '', { cause: error });
  }
}
