/**
 * The catalogue of a history: what a listing says of every point in one small piece, and the manifests behind it, so that
 * thousands of points are listed at the cost of one read and a stat(2) each. `.asof-catalogue`; layout: docs/formats.md, "The
 * catalogue".
 *
 * It is never believed over a manifest: an entry counts only while the manifest's file is the one that was read (inode, size,
 * times), its result only while the file of results is; a file that is damaged counts for nothing, and asof verify does not look
 * at it. Who writes to the history renews it when many manifests are not in it.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { type FileState, STATE_NUMBERS, sameFile } from './file-state.js';
import type { Manifest } from './manifest.js';
import { readAt, writeAt } from './write.js';

const NAME = '.asof-catalogue';
export const CATALOGUE_TEMPORARY = `${NAME}.new`;
const KIND = 'catalogue';
const VERSION = 2;
const HEAD = 4096;
/** Manifests that are read one by one before a new catalogue is worth it: so many, or that part of all. */
const FEW = 64;
const PART = 64;

/** Of each entry: the state of its manifest, then that of its results (zeros where there are none). */
const NUMBERS = 2 * STATE_NUMBERS;

/** What a listing shows of a point, of its manifest. */
export interface Summary {
  readonly id: string;
  readonly volume: string;
  readonly volumeName: string;
  readonly time: string;
  readonly label: string;
  readonly consistency: Manifest['consistency'];
  readonly kind: Manifest['kind'];
  /** The id of what it stands on; '' where that is nothing. */
  readonly base: string;
  readonly method: Manifest['method'];
  /** Bytes of the image. */
  readonly bytes: number;
  /** Runs that could not be read. */
  readonly bad: number;
  /** When the stored image was found to be what was read. */
  readonly proved: string;
}

/** What was found last when the point was verified. */
export interface Found {
  readonly time: string;
  readonly sound: boolean;
}

const COLUMNS = [
  'id',
  'volume',
  'volumeName',
  'time',
  'label',
  'consistency',
  'kind',
  'base',
  'method',
  'bytes',
  'bad',
  'proved',
] as const satisfies readonly (keyof Summary)[];

export function summaryOf(manifest: Manifest): Summary {
  return {
    id: manifest.id,
    volume: manifest.volume.id,
    volumeName: manifest.volume.name,
    time: manifest.time,
    label: manifest.label,
    consistency: manifest.consistency,
    kind: manifest.kind,
    base: manifest.base?.id ?? '',
    method: manifest.method,
    bytes: manifest.image.bytes,
    bad: manifest.bad.runs.length,
    proved: manifest.proof.time,
  };
}

export interface Catalogued {
  /** Of the manifest's file. */
  readonly name: string;
  readonly state: FileState;
  readonly summary: Summary;
  /** The manifest as JSON in one line. */
  readonly text: string;
  readonly verified: { readonly state: FileState; readonly found: Found | null } | undefined;
}

interface Head {
  readonly asof: string;
  readonly version: number;
  readonly points: number;
  readonly table: { readonly bytes: number; readonly sha256: string };
  readonly manifests: { readonly bytes: number; readonly sha256: string };
}

type Table = { readonly name: readonly string[]; readonly found: readonly (Found | null)[] } & {
  readonly [K in keyof Summary]: readonly Summary[K][];
};

/** A catalogue that was read; without entries where there is none that can be believed. */
export class Catalogue {
  readonly #path: string;
  readonly #head: Head | undefined;
  readonly #table: Table | undefined;
  readonly #states: Float64Array;
  readonly #at = new Map<string, number>();
  #texts: readonly string[] | undefined;

  constructor(folder: string) {
    this.#path = join(folder, NAME);
    this.#states = new Float64Array();
    try {
      const { head, table } = readTable(this.#path);
      const numbers = head.points * NUMBERS * 8;
      const rows = JSON.parse(table.toString('utf8', numbers)) as Table;
      this.#states = new Float64Array(new Uint8Array(table.subarray(0, numbers)).buffer);
      rows.name.forEach((name, i) => {
        this.#at.set(name, i);
      });
      this.#head = head;
      this.#table = rows;
    } catch {
      // Without one, the manifests are read.
    }
  }

  get size(): number {
    return this.#at.size;
  }

  /** The entry of the manifest `name`, where its file (a number among `states`) is the one that was read; else -1. */
  find(name: string, states: FileState, file: number): number {
    const entry = this.#at.get(name) ?? -1;
    return entry >= 0 && sameFile(this.#states, entry * 2, states, file) ? entry : -1;
  }

  summary(entry: number): Summary {
    const table = this.#table!;
    const { id, volume, volumeName, time, label, consistency, kind, base, method, bytes, bad, proved } =
      table;
    return {
      id: id[entry]!,
      volume: volume[entry]!,
      volumeName: volumeName[entry]!,
      time: time[entry]!,
      label: label[entry]!,
      consistency: consistency[entry]!,
      kind: kind[entry]!,
      base: base[entry]!,
      method: method[entry]!,
      bytes: bytes[entry]!,
      bad: bad[entry]!,
      proved: proved[entry]!,
    };
  }

  /** What was found last, where the file of results (likewise) is the one that was read; else undefined. */
  found(entry: number, states: FileState, file: number): Found | null | undefined {
    return sameFile(this.#states, entry * 2 + 1, states, file) ? this.#table!.found[entry] : undefined;
  }

  /** The manifest as JSON; undefined where it cannot be had here any more: another catalogue may have come, or damage. */
  text(entry: number): string | undefined {
    this.#texts ??= this.#readTexts();
    return this.#texts[entry];
  }

  #readTexts(): readonly string[] {
    try {
      const { table, manifests } = this.#head!;
      const bytes = readPart(this.#path, HEAD + table.bytes, manifests.bytes);
      return digestOf(bytes) === manifests.sha256 ? bytes.toString().split('\n') : [];
    } catch {
      return [];
    }
  }
}

/** Whether a new one is worth its while where `missing` of `all` manifests are not in the old one. */
export function isWorthIt(missing: number, all: number): boolean {
  return missing > Math.max(FEW, all / PART);
}

/** The caller has the lock of the folder. Throws nothing: without a catalogue a listing is slower. */
export function writeCatalogue(folder: string, entries: readonly Catalogued[]): void {
  try {
    const states = new Float64Array(entries.length * NUMBERS);
    entries.forEach(({ state, verified }, i) => {
      states.set(state, i * NUMBERS);
      if (verified) states.set(verified.state, i * NUMBERS + STATE_NUMBERS);
    });
    const rows = Object.fromEntries(COLUMNS.map(key => [key, entries.map(({ summary }) => summary[key])]));
    const name = entries.map(entry => entry.name);
    const found = entries.map(({ verified }) => verified?.found ?? null);
    const table = Buffer.concat([
      Buffer.from(states.buffer),
      Buffer.from(JSON.stringify({ name, found, ...rows })),
    ]);
    const manifests = Buffer.from(entries.map(({ text }) => text).join('\n'));
    const part = (bytes: Buffer) => ({ bytes: bytes.length, sha256: digestOf(bytes) });
    const head: Head = {
      asof: KIND,
      version: VERSION,
      points: entries.length,
      table: part(table),
      manifests: part(manifests),
    };
    const line = Buffer.from(
      JSON.stringify(head)
        .padEnd(HEAD - 1)
        .concat('\n'),
    );
    const temporary = join(folder, CATALOGUE_TEMPORARY);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
    const fd = openSync(temporary, flags, 0o600);
    try {
      // Not synced: one that a power cut has torn does not have its digests.
      writeAt(fd, Buffer.concat([line, table, manifests]), 0);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, join(folder, NAME));
  } catch {
    // The next writer tries again.
  }
}

/** Throws where it is not what was written. */
function readTable(path: string): { readonly head: Head; readonly table: Buffer } {
  const head = JSON.parse(readPart(path, 0, HEAD).toString()) as Head;
  if (head.asof !== KIND || head.version !== VERSION) throw new Error('it is no catalogue');
  const table = readPart(path, HEAD, head.table.bytes);
  if (digestOf(table) !== head.table.sha256) throw new Error('its digest does not match');
  return { head, table };
}

function readPart(path: string, offset: number, length: number): Buffer {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return readAt(fd, offset, length);
  } finally {
    closeSync(fd);
  }
}

function digestOf(body: Uint8Array): string {
  return createHash('sha256').update(body).digest('hex');
}
