/**
 * The folder of a history, for whoever writes to it: one at a time, and what a killed writer left is taken away.
 * States of the files of a point: docs/formats.md, "The folder of a history".
 *
 *   intent written → partial files grow → image, tree, map get their names → the manifest appears → intent removed
 *
 * The manifest's rename is the commit. Whatever an intent names without a manifest is a leftover, and nothing else is.
 */
import { randomUUID } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { AsofError, errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import { syncFolder } from '../sync-folder.js';
import { CATALOGUE_TEMPORARY } from './catalogue.js';
import { addFailures, FAILURES_TEMPORARY, type Failure } from './failures.js';
import { MANIFEST_KIND, type Manifest } from './manifest.js';
import { readSealed, writeSealed } from './sealed.js';

const LOCK = '.asof-lock';
const INTENT = 'intent';
const PARTIAL = /^\.asof-([0-9a-f-]{36})\.(?:intent|qcow2|tree|map|unused|json)$/;

/** The files of a point beside its manifest, in the order in which they get their names. */
export const PARTS = ['qcow2', 'tree', 'map', 'unused'] as const;
export type Part = (typeof PARTS)[number];

interface Intent {
  readonly id: string;
  /** The name of the files to be, without what tells them apart. */
  readonly stem: string;
  /** Of a backup: what is written down where it is cut off. */
  readonly backup?: Pick<Failure, 'began' | 'volume'>;
}

/** The folder, locked. */
export class HistoryFolder {
  readonly path: string;
  /** Names of what was taken away because a killed run had left it. */
  readonly cleared: readonly string[];
  readonly #lock: number;

  /** Makes the folder where there is none. Throws HISTORY_BUSY, or IO where it cannot be used. */
  constructor(path: string) {
    this.path = resolve(path);
    try {
      mkdirSync(this.path, { recursive: true });
      this.#lock = openSync(
        join(this.path, LOCK),
        constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
        0o600,
      );
    } catch (error) {
      throw unusable(this.path, error);
    }
    try {
      if (!loadAddon().lockWhole(this.#lock)) {
        throw new AsofError('HISTORY_BUSY', `another run is writing to ${this.path}`, 'wait for it to end');
      }
      this.cleared = this.#clear();
    } catch (error) {
      closeSync(this.#lock);
      throw error instanceof AsofError ? error : unusable(this.path, error);
    }
  }

  /** Begins a point whose files are to be called `stem`. Throws what writing throws. */
  begin(stem: string, backup?: Intent['backup']): NewPoint {
    const id = randomUUID();
    return new NewPoint(this.path, { id, stem: `${stem}-${id.slice(0, 8)}`, ...(backup && { backup }) });
  }

  /** Of a run that had not begun a point. Whether it is kept. */
  note(failure: Failure): boolean {
    return addFailures(this.path, [failure]);
  }

  /** Takes a point away, on which nothing stands. Throws what the calls throw; then it is there as a whole, or a leftover. */
  remove(id: string, stem: string): void {
    const intent: Intent = { id, stem };
    writeSealed(partial(this.path, id, 'intent'), partial(this.path, id, 'json'), INTENT, intent);
    rmSync(join(this.path, `${stem}.json`), { force: true });
    syncFolder(this.path);
    clear(this.path, id);
    syncFolder(this.path);
  }

  /** The lock goes with the descriptor. */
  close(): void {
    closeSync(this.#lock);
  }

  #clear(): string[] {
    const ids = new Set<string>();
    for (const name of readdirSync(this.path)) {
      const id = PARTIAL.exec(name)?.[1];
      if (id) ids.add(id);
    }
    const cleared: string[] = [];
    for (const name of readdirSync(this.path)) {
      if (name !== CATALOGUE_TEMPORARY && name !== FAILURES_TEMPORARY && !isDeadTemporary(name)) continue;
      rmSync(join(this.path, name), { force: true });
      cleared.push(name);
    }
    // Written down before the intents go: a run that is killed in between writes it once more at worst.
    const cut = [...ids].flatMap(id => cutOff(this.path, id));
    if (cut.length > 0) addFailures(this.path, cut);
    for (const id of ids) cleared.push(...clear(this.path, id));
    if (cleared.length > 0) syncFolder(this.path);
    return cleared;
  }
}

/** A point that is being written. */
export class NewPoint {
  readonly id: string;
  readonly stem: string;
  readonly #folder: string;

  constructor(folder: string, intent: Intent) {
    const { id } = intent;
    this.#folder = folder;
    this.id = id;
    this.stem = intent.stem;
    try {
      writeSealed(partial(folder, id, 'intent'), partial(folder, id, 'json'), INTENT, intent);
    } catch (error) {
      this.abandon();
      throw error;
    }
  }

  /** Where a file is written before it has its name. */
  partial(part: Part): string {
    return partial(this.#folder, this.id, part);
  }

  name(part: Part): string {
    return `${this.stem}.${part}`;
  }

  /** Gives the files their names, the manifest last; then the point is there. Throws what the calls throw. */
  commit(manifest: Manifest): void {
    for (const part of PARTS) {
      const from = this.partial(part);
      if (!existsSync(from)) continue;
      const fd = openSync(from, constants.O_RDONLY);
      try {
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameSync(from, join(this.#folder, this.name(part)));
    }
    syncFolder(this.#folder);
    const path = join(this.#folder, `${this.stem}.json`);
    writeSealed(path, partial(this.#folder, this.id, 'json'), MANIFEST_KIND, manifest);
    rmSync(partial(this.#folder, this.id, 'intent'), { force: true });
  }

  /**
   * Takes everything away again, and then, when there is room, writes down why. Throws nothing: what stays is a leftover like
   * that of a killed run; so is the intent where nothing can be written. Whether the failure is kept.
   */
  abandon(failure?: Failure): boolean {
    let kept = false;
    try {
      clear(this.#folder, this.id, failure !== undefined);
      if (failure) {
        kept = addFailures(this.#folder, [failure]);
        if (kept) clear(this.#folder, this.id);
      }
      syncFolder(this.#folder);
    } catch {
      // The next run tries again.
    }
    return kept;
  }
}

function partial(folder: string, id: string, part: Part | 'intent' | 'json'): string {
  return join(folder, `.asof-${id}.${part}`);
}

/** A backup that ended before it could say how: its intent is there, and its point is not. */
function cutOff(folder: string, id: string): Failure[] {
  let intent: Intent;
  try {
    intent = readSealed<Intent>(partial(folder, id, 'intent'), INTENT);
  } catch {
    return [];
  }
  if (!intent.backup || existsSync(join(folder, `${intent.stem}.json`))) return [];
  const why = 'it was killed, or could not write down why it failed';
  return [{ time: new Date().toISOString(), ...intent.backup, outcome: 'interrupted', code: '', why }];
}

/** Takes away what the point `id` left unless it is there; the intent last, if at all. Names of what went. */
function clear(folder: string, id: string, keepIntent = false): string[] {
  const intent = partial(folder, id, 'intent');
  const gone: string[] = [];
  const remove = (path: string) => {
    if (!existsSync(path)) return;
    rmSync(path);
    gone.push(path.slice(folder.length + 1));
  };
  let stem: string | undefined;
  try {
    stem = readSealed<Intent>(intent, INTENT).stem;
  } catch {
    // Without an intent, or with one cut short, no file has got its name yet: the intent is on disk before the first.
  }
  if (stem !== undefined && !stem.includes('/') && stem.endsWith(`-${id.slice(0, 8)}`)) {
    const there = existsSync(join(folder, `${stem}.json`));
    for (const part of there ? [] : [...PARTS, 'verified']) remove(join(folder, `${stem}.${part}`));
  }
  for (const part of [...PARTS, 'json'] as const) remove(partial(folder, id, part));
  if (!keepIntent) remove(intent);
  return gone;
}

/** What `asof verify` was writing when it was killed: verification.ts. */
function isDeadTemporary(name: string): boolean {
  const pid = /\.verified\.(\d+)\.new$/.exec(name)?.[1];
  return pid !== undefined && !existsSync(`/proc/${pid}`);
}

function unusable(path: string, error: unknown): AsofError {
  return new AsofError('IO', `${path} cannot hold a history: ${errnoOf(error) || String(error)}`, '', {
    cause: error,
  });
}
