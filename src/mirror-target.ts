/**
 * Whether the target of a mirror may be written: it is the one that it was, nobody has written to it since, and it holds
 * nothing else; and what `asof mirror --status` says of one. Who has it and whether it is large enough, restore-target.ts knows.
 */
import { fstatSync } from 'node:fs';
import { ImageFile, readUpTo } from './block/file.js';
import { blockDevice } from './cow/block-device.js';
import { constantsOf, type Identity, identityOf, type Looked } from './cow/identity.js';
import type { Origin } from './cow/origin.js';
import { AsofError } from './errors.js';
import {
  altered,
  type KnownMirror,
  type MirrorMoment,
  type MirrorRecord,
  MirrorRecords,
  type Notice,
  noticeOf,
  vouched,
} from './mirror-record.js';
import { occupied, realPath, type Target } from './restore-target.js';

/** What is known of a target that may be written. */
export interface Admitted {
  readonly record: MirrorRecord | undefined;
  /** What it held as a whole last; undefined where it never did, or the target is another one: nothing is guarded then. */
  readonly last: MirrorMoment | undefined;
  /** Somebody has written to it since, so that how much differs says nothing of the source. */
  readonly altered: boolean;
  /** It is as the last run left it, and why that is certain; else why it may not be. */
  readonly certain: 'file' | 'device' | undefined;
  readonly whyNot: string;
}

/** Throws TARGET_CHANGED, TARGET_OCCUPIED. */
export function admit(
  target: Target,
  origin: Origin | undefined,
  known: KnownMirror | undefined,
  source: { readonly id: string },
  force: boolean,
): Admitted {
  const notice = origin && noticeOf(origin);
  const fresh = (record: MirrorRecord | undefined, whyNot: string): Admitted => {
    return { record, last: undefined, altered: false, certain: undefined, whyNot };
  };
  if (!known) {
    const what = notice ? `a mirror of ${notice.source} that is not whole` : target.holds;
    if (what !== null && !force) throw occupied(target.path, signatureText(what));
    return fresh(undefined, 'the target held no mirror');
  }
  const { record } = known;
  const { swapped } = known;
  if (swapped !== undefined) {
    if (!force) throw changed(target.path, `is not the target that it was: ${swapped}`);
    return fresh(record, 'the target is another one');
  }
  if (record.source.id !== source.id) {
    if (!force) throw occupied(target.path, `the mirror of ${record.source.name}`);
    return fresh(record, 'the target held the mirror of another volume');
  }
  if (!origin) throw new Error('a target that is not there is another one');
  const now = identityOf(origin);
  if (record.state === 'updating') {
    if (!force && !isUnended(record, target, origin, now, notice)) {
      throw changed(target.path, 'holds something else than the last run, which did not end, can have left');
    }
    return { ...fresh(record, 'the last run did not end'), last: record.before ?? undefined };
  }
  const why = altered(record, origin, now);
  if (why && !force) throw changed(target.path, `was written to since it was mirrored to: ${why}`);
  const certain = why ? undefined : vouched(record, now);
  const whyNot = why
    ? 'the target was written to since'
    : certain
      ? ''
      : 'the target may have been written to unseen';
  return { record, last: record.moment, altered: why !== undefined, certain, whyNot };
}

/**
 * Whether a target is as a run may leave it that does not end: with the notice, as it was before that, or as it was to be; or
 * it holds nothing. A disk that was given up as a mirror and is used for something else is none of these.
 */
function isUnended(
  record: MirrorRecord,
  target: Target,
  origin: Origin,
  now: Identity,
  notice: Notice | undefined,
): boolean {
  if (notice) return notice.id === record.id || notice.id === '';
  return target.holds === null || (record.samples.length > 0 && altered(record, origin, now) === undefined);
}

function signatureText(what: string): string {
  return what === 'data' || what.includes(' ') ? what : `a signature of ${what}`;
}

function changed(path: string, what: string): AsofError {
  return new AsofError(
    'TARGET_CHANGED',
    `${path} ${what}`,
    '--force, where what it holds now may be overwritten',
  );
}

export interface MirrorStatus {
  readonly target: string;
  /** `altered`: somebody else wrote to it since, or it is another one. */
  readonly state: 'whole' | 'updating' | 'altered';
  readonly why: string;
  readonly source: string;
  /** Of a whole one what it holds, else what it was to hold; null where only the notice on the target is known. */
  readonly moment: MirrorMoment | null;
  /** ISO 8601; '' where unknown. */
  readonly since: string;
}

/** Reads only, and also what is in use. Throws MIRROR_UNKNOWN, NOT_FOUND, IO. */
export function statusOf(text: string, state: string): MirrorStatus {
  const path = realPath(text);
  const file = ImageFile.open(path);
  try {
    const stat = fstatSync(file.fd, { bigint: true });
    const device = stat.isBlockDevice() ? blockDevice(stat.rdev) : undefined;
    const { fd, size } = file;
    const read = (offset: number, length: number) => readUpTo({ fd, path, size }, offset, length);
    const looked: Looked = { fd, size, sectorSize: device?.sectorSize ?? 512, device, read };
    const known = new MirrorRecords(state).find(path, constantsOf(looked));
    const notice = noticeOf(looked);
    if (!known && !notice) {
      const what = `nothing is known of a mirror in ${path}`;
      throw new AsofError('MIRROR_UNKNOWN', what, '--state names the state directory with the records');
    }
    if (notice && (!known || known.record.id !== notice.id)) {
      const why = 'a notice on it says so, and no record is here';
      return {
        target: path,
        state: 'updating',
        why,
        source: notice.source,
        moment: null,
        since: notice.since,
      };
    }
    const { record, swapped } = known!;
    const { moment, since, source } = record;
    const told = { target: path, source: source.name, moment, since };
    if (swapped !== undefined) return { ...told, state: 'altered', why: `it is another one: ${swapped}` };
    if (notice) return { ...told, state: 'updating', why: 'a notice on it says so' };
    if (record.state === 'updating') return { ...told, state: 'updating', why: 'the last run did not end' };
    const why = altered(record, looked, identityOf(looked));
    return why ? { ...told, state: 'altered', why } : { ...told, state: 'whole', why: '' };
  } finally {
    file.close();
  }
}

/** What a target that has just been made looks like. */
export function lookAt(fd: number, path: string): Looked {
  const size = fstatSync(fd).size;
  const read = (offset: number, length: number) => readUpTo({ fd, path, size }, offset, length);
  return { fd, size, sectorSize: 512, device: undefined, read };
}
