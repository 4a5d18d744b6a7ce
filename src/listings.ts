/**
 * Composition for who only lists: what `asof history` asks for. It loads nothing that opens an image, so that the command costs
 * what the listing costs; src/histories.ts has the rest.
 */
import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Found } from './image/catalogue.js';
import { type Failure, readFailures } from './image/failures.js';
import { type HistoryPoint, type ListedPoint, Listing } from './image/listing.js';
import type { Manifest } from './image/manifest.js';
import { resultsOf, type Verified } from './image/verification.js';

export type { Failure, Found, ListedPoint };
export { Listing, readFailures };

/** A point with what has been found of it: what `asof history --json` lists. */
export interface PointState {
  readonly id: string;
  readonly stem: string;
  readonly moment: string;
  readonly manifest: Manifest;
  /** The newest result; null where nobody has looked since the proof. */
  readonly verified: Verified | null;
}

export function stateOfPoint(history: Listing, point: HistoryPoint): PointState {
  const { manifest, stem, moment } = point;
  return { id: manifest.id, stem, moment, manifest, verified: resultsOf(history, point).at(-1) ?? null };
}

/** The folder of the history at `path`, which may be one of its files. What is not there is missed by Listing, in words. */
export function folderOf(path: string): string {
  return isFolder(path) || !existsSync(path) ? path : dirname(resolve(path));
}

export function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
