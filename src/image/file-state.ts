/**
 * Which file it was: inode, bytes, times of writing and of change. A file that was replaced or written to has another state, so
 * that what is remembered of its content counts while the state is the same.
 */
import { readdirSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { loadAddon } from '../native.js';

/** Inode, bytes, and milliseconds of mtime and ctime. NaN where the file cannot be asked: it is like no file then. */
export type FileState = ArrayLike<number>;

/** Numbers of a state. */
export const STATE_NUMBERS = 4;

const UNKNOWN = [NaN, NaN, NaN, NaN];

export function stateOf({ ino, size, mtimeMs, ctimeMs }: Stats): FileState {
  return [ino, size, mtimeMs, ctimeMs];
}

/** Whether the `i`-th of the states `a` is the `j`-th of `b`. */
export function sameFile(a: FileState, i: number, b: FileState, j: number): boolean {
  const [x, y] = [i * STATE_NUMBERS, j * STATE_NUMBERS];
  return a[x] === b[y] && a[x + 1] === b[y + 1] && a[x + 2] === b[y + 2] && a[x + 3] === b[y + 3];
}

/** Files by name, each with the number of its state. One array of numbers for all: thousands of small ones cost more. */
export interface Files {
  readonly numbers: ReadonlyMap<string, number>;
  readonly states: FileState;
}

/** Files of a folder that have one of these endings. Throws what listing the folder throws. */
export function filesIn(folder: string, endings: readonly string[]): Files {
  const { names, states } = listed(folder, endings);
  const numbers = new Map<string, number>();
  for (let i = 0; i < names.length; i++) numbers.set(names[i]!, i);
  return { numbers, states };
}

function listed(
  folder: string,
  endings: readonly string[],
): { readonly names: readonly string[]; readonly states: FileState } {
  try {
    const { names, states } = loadAddon().folderFiles(folder, endings);
    return { names: names === '' ? [] : names.split('/'), states };
  } catch {
    // Slower, and what is wrong with the folder is told as Node's fs tells it.
    const names = readdirSync(folder).filter(name => endings.some(end => name.endsWith(end)));
    const states = names.flatMap(name => {
      const stat = statSync(join(folder, name), { throwIfNoEntry: false });
      return stat ? Array.from(stateOf(stat)) : UNKNOWN;
    });
    return { names, states };
  }
}
