/**
 * The catalogue of a history: its manifests in one file, so that thousands of points are listed at the cost of one read and a
 * stat(2) each. `.asof-catalogue`: a line of JSON (kind, version, SHA-256 of the rest), then the entries as JSON.
 *
 * It is never believed over a manifest: an entry counts only while the manifest's file is the one that was read (inode, size,
 * times), a file that is damaged counts for nothing, and asof verify does not look at it. Who writes to the history renews it
 * when many manifests are not in it.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readFileSync, renameSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import type { Manifest } from './manifest.js';
import { writeAt } from './write.js';

const NAME = '.asof-catalogue';
export const CATALOGUE_TEMPORARY = `${NAME}.new`;
const KIND = 'catalogue';
const VERSION = 1;
/** Manifests that are read one by one before a new catalogue is worth it: so many, or that part of all. */
const FEW = 64;
const PART = 16;

/** Which file it was. */
export interface FileState {
  readonly ino: number;
  readonly size: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
}

export interface Catalogued {
  readonly name: string;
  readonly state: FileState;
  readonly manifest: Manifest;
}

export function stateOf({ ino, size, mtimeMs, ctimeMs }: Stats): FileState {
  return { ino, size, mtimeMs, ctimeMs };
}

export function sameFile(a: FileState, b: FileState): boolean {
  return a.ino === b.ino && a.size === b.size && a.mtimeMs === b.mtimeMs && a.ctimeMs === b.ctimeMs;
}

/** By the name of the manifest's file; empty where there is none that can be believed. */
export function readCatalogue(folder: string): Map<string, Catalogued> {
  const found = new Map<string, Catalogued>();
  try {
    const file = readFileSync(join(folder, NAME));
    const end = file.indexOf(10);
    const head = JSON.parse(file.toString('utf8', 0, Math.max(0, end))) as Record<string, unknown>;
    const body = file.subarray(end + 1);
    if (head['asof'] !== KIND || head['version'] !== VERSION || head['sha256'] !== digestOf(body))
      return found;
    for (const entry of JSON.parse(body.toString()) as Catalogued[]) found.set(entry.name, entry);
  } catch {
    // Without one, the manifests are read.
  }
  return found;
}

/** Whether a new one is worth its while where `missing` of `all` manifests are not in the old one. */
export function isWorthIt(missing: number, all: number): boolean {
  return missing > Math.max(FEW, all / PART);
}

/** The caller has the lock of the folder. Throws nothing: without a catalogue a listing is slower. */
export function writeCatalogue(folder: string, entries: readonly Catalogued[]): void {
  try {
    const body = Buffer.from(JSON.stringify(entries));
    const head = JSON.stringify({ asof: KIND, version: VERSION, sha256: digestOf(body) });
    const temporary = join(folder, CATALOGUE_TEMPORARY);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
    const fd = openSync(temporary, flags, 0o600);
    try {
      // Not synced: one that a power cut has torn does not have its digest.
      writeAt(fd, Buffer.concat([Buffer.from(`${head}\n`), body]), 0);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, join(folder, NAME));
  } catch {
    // The next writer tries again.
  }
}

function digestOf(body: Uint8Array): string {
  return createHash('sha256').update(body).digest('hex');
}
