/**
 * Two hash trees as one: what the file of a point holds, and what the file of its base holds beside that. The root is that
 * of the point. Costs what both files hold; a page is copied as it is.
 */
import { closeSync, constants, fsyncSync, openSync } from 'node:fs';
import { HEAD, INDEX_ENTRY, LEVELS, PAGE, pageKey, sha256, type TreeFile, treeHead } from './tree.js';
import { writeAt } from './write.js';

/** Pages that are written at once. */
const PIECE = 256;

/** Makes `path`, which must not exist, on stable storage. Throws what reading and writing throw. */
export function uniteTrees(path: string, upper: TreeFile, lower: TreeFile): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    const keys: number[] = [];
    let pages: Buffer[] = [];
    const flush = () => {
      if (pages.length > 0) writeAt(fd, Buffer.concat(pages), HEAD + (keys.length - pages.length) * PAGE);
      pages = [];
    };
    const take = (from: TreeFile, level: number, index: number) => {
      keys.push(pageKey(level, index));
      pages.push(from.page(level, index)!);
      if (pages.length === PIECE) flush();
    };
    for (let level = 0; level < LEVELS; level++) {
      for (const index of upper.pages(level)) take(upper, level, index);
      for (const index of lower.pages(level)) if (!upper.has(level, index)) take(lower, level, index);
    }
    flush();
    const index = Buffer.alloc(keys.length * INDEX_ENTRY);
    keys.forEach((key, slot) => {
      const level = key % LEVELS;
      index.writeUInt32LE(level, slot * INDEX_ENTRY);
      index.writeBigUInt64LE(BigInt((key - level) / LEVELS), slot * INDEX_ENTRY + 8);
    });
    writeAt(fd, index, HEAD + keys.length * PAGE);
    writeAt(fd, treeHead(upper, keys.length, sha256(index)), 0);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
