/**
 * What the kernel tells in /proc and /sys, without touching any file system: what has ended, is not there, or is not ours to
 * see, reads as nothing.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Without blanks at its ends. */
export function text(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

export function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Where a link leads. */
export function target(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
