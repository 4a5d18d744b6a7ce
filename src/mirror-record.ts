/**
 * What is known of the target of a mirror: which file or device it is, what it holds, and whether it is whole. One sealed file
 * a target in the folder `mirrors` of the state directory (docs/formats.md).
 *
 *   updating (nothing whole yet) → whole → updating → whole → …
 *
 * `updating` is on stable storage before the first byte of the target is written, `whole` is written behind its last flush. In
 * between the target itself says so, too: where its table of partitions or its file system begins there is a notice, for
 * people and programs that have nothing but the target.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { REACH } from './block/content.js';
import { type Constants, foreignWrite, type Identity, type Looked, unwritten } from './cow/identity.js';
import { readState, writeState } from './cow/state-file.js';
import { AsofError, errnoOf } from './errors.js';
import type { Outline } from './mirror-shape.js';

const KIND = 'mirror';

export interface MirrorMoment {
  /** ISO 8601. */
  readonly time: string;
  /** The point, and the snapshot as the tracker knows it. */
  readonly point: string;
  readonly snapshot: string | null;
  readonly consistency: string;
  /** Bytes of the disk, and those of them that are no zeros, about. */
  readonly size: number;
  readonly held: number;
}

export interface Sample {
  /** Bytes of the target. */
  readonly offset: number;
  readonly length: number;
  /** SHA-256, hexadecimal. */
  readonly sha256: string;
}

export interface MirrorRecord {
  readonly id: string;
  /** Where it was at the last run, and what stays the same while it is the same target. */
  readonly target: Constants & { readonly path: string };
  readonly source: { readonly id: string; readonly name: string };
  readonly state: 'whole' | 'updating';
  /** ISO 8601: since when. */
  readonly since: string;
  /** What it holds, or is to hold. */
  readonly moment: MirrorMoment;
  /** While it is being updated, what it held before as a whole; null where it never did. */
  readonly before: MirrorMoment | null;
  readonly outline: Outline;
  /**
   * Of a whole one, behind the last write. While it is being updated both are of what it held before, until all but its start
   * is written: then the samples are of what it is to hold, and nothing is known of its times.
   */
  readonly identity: Identity | null;
  readonly samples: readonly Sample[];
}

export interface KnownMirror {
  readonly record: MirrorRecord;
  /** Another file or device than it was, in words; undefined where it is the same. */
  readonly swapped: string | undefined;
}

export class MirrorRecords {
  readonly #folder: string;

  constructor(state: string) {
    this.#folder = join(state, 'mirrors');
  }

  /**
   * The record of the target of that path; `now` is what lies there, undefined where nothing does. One that is the same file or
   * device counts more than one that was at that path.
   */
  find(path: string, now: Constants | undefined): KnownMirror | undefined {
    const all = this.#all();
    const same = now && all.find(({ target }) => isSame(target, now));
    if (same) return { record: same, swapped: undefined };
    const record = all.find(({ target }) => target.path === path);
    if (!record) return undefined;
    return { record, swapped: now ? other(record, now) : 'it is not there' };
  }

  /** Throws IO. */
  write(record: MirrorRecord): void {
    try {
      mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw new AsofError('IO', `cannot make ${this.#folder}: ${errnoOf(error)}`, '--state names another', {
        cause: error,
      });
    }
    writeState(join(this.#folder, `${record.id}.json`), KIND, record);
  }

  /** What is damaged is not believed: its target is then one of which nothing is known. */
  #all(): MirrorRecord[] {
    let names: string[];
    try {
      names = readdirSync(this.#folder).filter(name => name.endsWith('.json'));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return [];
      throw new AsofError('IO', `cannot read ${this.#folder}: ${errnoOf(error)}`, '', { cause: error });
    }
    return names.flatMap(name => {
      const read = readState<MirrorRecord>(join(this.#folder, name), KIND);
      return 'body' in read ? [read.body] : [];
    });
  }
}

function isSame(then: Constants, now: Constants): boolean {
  return then.kind === now.kind && then.which !== '' && then.which === now.which;
}

function other({ target }: MirrorRecord, now: Constants): string | undefined {
  if (target.kind !== now.kind) return `it was a ${target.kind}, and is a ${now.kind}`;
  if (target.which !== now.which)
    return `it was ${target.which || 'nameless'}, and is ${now.which || 'nameless'}`;
  // Of what has no name, the size has to do, with the samples.
  if (target.size !== now.size) return `it had ${target.size} bytes, and has ${now.size}`;
  return undefined;
}

/**
 * In words what tells that somebody has written to a whole mirror since, or that it is another one after all; undefined
 * where nothing does. That its owner or mode was changed is nothing.
 */
export function altered(record: MirrorRecord, target: Looked, now: Identity): string | undefined {
  const { identity } = record;
  if (identity) {
    const why = foreignWrite(bytesAlone(identity), { ...bytesAlone(now), ctime: identity.ctime });
    if (why) return why.replace(/^the origin/, 'it');
  }
  const wrong = record.samples.find(
    ({ offset, length, sha256 }) => digestOf(target.read(offset, length)) !== sha256,
  );
  return wrong && `the ${wrong.length} bytes at ${wrong.offset} are not those that were written`;
}

/** A flush is counted as a write of no sectors (e2fsck -n leaves one): it changes nothing. */
function bytesAlone(identity: Identity): Identity {
  const sectors = (counts: string) => counts.replace(/^(\d+)\/\d+\/(\d+)\/\d+\/(\d+)$/, '$1/$2/$3');
  const { own, disk } = identity.written;
  return { ...identity, written: { own: sectors(own), disk: sectors(disk) } };
}

/** Whether it is certain that nothing was written to it: for a file as its times tell, for a device as the kernel swears. */
export function vouched({ identity }: MirrorRecord, now: Identity): 'file' | 'device' | undefined {
  if (!identity || foreignWrite(identity, now) !== undefined) return undefined;
  if (now.kind === 'file') return 'file';
  // What lies behind a loop device can be written past it.
  return unwritten(identity, now) && !now.which.startsWith('a loop device') ? 'device' : undefined;
}

/** Samples of a target, evenly spread, as many as this. */
const SAMPLES = 64;
const SAMPLE = 65536;

/** Of the first `length` bytes, at `starts` (of partitions), and at the end of the target where `tail`. */
export function samplesOf(
  target: Looked,
  length: number,
  starts: readonly number[],
  tail: boolean,
): Sample[] {
  const step = Math.max(SAMPLE, Math.floor(length / SAMPLES / SAMPLE) * SAMPLE);
  const offsets = new Set<number>(starts.filter(start => start < length));
  for (let at = 0; at < length; at += step) offsets.add(at);
  offsets.add(Math.max(0, length - SAMPLE));
  const samples = [...offsets]
    .sort((a, b) => a - b)
    .map(offset => ({ offset, length: Math.min(SAMPLE, length - offset) }));
  if (tail)
    samples.push({ offset: Math.max(0, target.size - SAMPLE), length: Math.min(SAMPLE, target.size) });
  return samples.map(one => ({ ...one, sha256: digestOf(target.read(one.offset, one.length)) }));
}

function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Bytes from the start of a target that the notice covers: as far as any mark of a file system is looked for. */
export const NOTICE = REACH;

const FIRST_LINE = 'asof mirror: this disk is being updated, and is not whole\n';

export interface Notice {
  /** The id of the record; '' where it cannot be read. */
  readonly id: string;
  readonly source: string;
  readonly since: string;
}

/** Characters of a name in a notice, which as a rule fits into one sector. */
const NAME = 80;

/** The bytes of the notice: at most `length`. */
export function noticeBytes({ id, source, since }: MirrorRecord, length: number): Buffer {
  const bytes = Buffer.alloc(Math.min(NOTICE, length));
  const body = { id, source: source.name.slice(0, NAME), since };
  const text = JSON.stringify({
    asof: 'mirror-notice',
    version: 1,
    sha256: digestOf(Buffer.from(JSON.stringify(body))),
    body,
  });
  bytes.write(`${FIRST_LINE}${text}\n`);
  return bytes;
}

/** The notice at the start of a target; undefined where there is none. */
export function noticeOf(target: Pick<Looked, 'read'>): Notice | undefined {
  const lines = target.read(0, 4096).toString('utf8').split('\n');
  if (`${lines[0]}\n` !== FIRST_LINE) return undefined;
  const unread = { id: '', source: '', since: '' };
  try {
    const { sha256, body } = JSON.parse(lines[1] ?? '') as { sha256: string; body: Notice };
    return digestOf(Buffer.from(JSON.stringify(body))) === sha256 ? body : unread;
  } catch {
    return unread;
  }
}
