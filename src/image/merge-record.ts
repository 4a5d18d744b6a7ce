/**
 * The record of a merge under way: a point's base is being made into its image. `.asof-ID.merge`, sealed JSON, where ID is
 * that of the point which stays. While it is there, the base is no point any more: its image holds what it held, then what
 * both hold, and either way the point above it reads the same.
 *
 *   begun: without a manifest; nothing is proven, the base's image can be made what it was
 *   proven: with the manifest that the point gets; from here a merge is finished, never undone
 *
 * docs/formats.md, "How two points become one".
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Manifest } from './manifest.js';
import { readSealed } from './sealed.js';

export const MERGE_KIND = 'merge';
const NAME = /^\.asof-([0-9a-f-]{36})\.merge$/;
const STEM = /^[^/.][^/]*$/;

export interface MergeRecord {
  /** The point that stays, and the one that goes: ids and stems. */
  readonly id: string;
  readonly stem: string;
  readonly base: string;
  readonly baseStem: string;
  /** The beginning of the base's image (hexadecimal) and its bytes, as they were. */
  readonly head: string;
  readonly bytes: number;
  readonly manifest: Manifest | null;
}

export function mergePath(folder: string, id: string): string {
  return join(folder, `.asof-${id}.merge`);
}

/** Where the record is written before it has its name; whoever locks the folder next clears it. */
export function mergeTemporary(folder: string, id: string): string {
  return join(folder, `.asof-${id}.json`);
}

/** The records among `names`, the names in the folder. Throws HISTORY_DAMAGED, IO. */
export function readMerges(folder: string, names: readonly string[]): MergeRecord[] {
  const found: MergeRecord[] = [];
  for (const name of names) {
    const id = NAME.exec(name)?.[1];
    if (id === undefined) continue;
    const record = readSealed<MergeRecord>(join(folder, name), MERGE_KIND);
    if (STEM.test(record.stem) && STEM.test(record.baseStem) && record.id === id) found.push(record);
  }
  return found;
}

/** Whether the base's image has become the point's own already. */
export function isRenamed(folder: string, { baseStem, manifest }: MergeRecord): boolean {
  return manifest !== null && !existsSync(join(folder, `${baseStem}.qcow2`));
}
