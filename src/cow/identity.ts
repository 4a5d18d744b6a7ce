/**
 * Was the origin written to while asof was away?
 *
 * At a clean stop the origin's identity is recorded: which file or device it is, its size, its times, how much a block
 * device has met, and the counters of the file systems on it. On attach it is compared. A difference is a foreign write;
 * what changed is then unknown, and so is every snapshot that needs the origin. No difference is the best that can be
 * said, not a proof: docs/tracking.md says what cannot be seen.
 *
 * After an unclean stop there is no record of the last moment. A file's modification time then tells at least of writes
 * behind the daemon's last sign of life, or behind the start of a machine that has met a power cut meanwhile.
 */
import { fstatSync, readFileSync } from 'node:fs';
import { errnoOf } from '../errors.js';
import { written } from './block-device.js';
import { countersAt, type FileSystemCounters } from './counters/table.js';
import type { Origin } from './origin.js';
import { fileSystemStarts } from './partitions.js';

/** Milliseconds that a daemon may have lived and written after its last sign of life: its thread may have been busy. */
const SILENCE_MS = 30_000;

/** What stays the same while it is the same origin, however much is written to it. */
export interface Constants {
  readonly kind: 'file' | 'block';
  /** Bytes. */
  readonly size: number;
  /** Of a file: inode and time of birth. Of a device: what names it (block-device.ts), '' where nothing does. */
  readonly which: string;
  /** Of a file: the number of its file system's device, which a restart of the machine may change. */
  readonly device: string;
}

export interface Identity extends Constants {
  /** /proc/sys/kernel/random/boot_id. */
  readonly bootId: string;
  /** Of a file, nanoseconds since 1970 as text; '' of a device. */
  readonly mtime: string;
  readonly ctime: string;
  /** Of a device: what itself and its whole disk have met since they appeared. */
  readonly written: { readonly own: string; readonly disk: string };
  readonly fileSystems: readonly FileSystemCounters[];
}

export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}

/** What is looked at: of an origin, or of another file or device that is open. */
export type Looked = Pick<Origin, 'fd' | 'size' | 'sectorSize' | 'device' | 'read'>;

export function constantsOf(origin: Looked): Constants {
  const { device } = origin;
  if (device) return { kind: 'block', size: origin.size, which: device.identity, device: '' };
  const stat = fstatSync(origin.fd, { bigint: true });
  return {
    kind: 'file',
    size: Number(stat.size),
    which: `inode ${stat.ino}, born ${stat.birthtimeNs}`,
    device: String(stat.dev),
  };
}

/** Of an origin to which nothing is being written, and whose writes have all been flushed. */
export function identityOf(origin: Looked): Identity {
  const stat = fstatSync(origin.fd, { bigint: true });
  const file = origin.device === undefined;
  const read = (offset: number, length: number) => origin.read(offset, length);
  const found: FileSystemCounters[] = [];
  for (const start of fileSystemStarts(read, origin.sectorSize)) {
    const counters = countersAt(read, start);
    if (counters) found.push(counters);
  }
  return {
    ...constantsOf(origin),
    bootId: bootId(),
    mtime: file ? String(stat.mtimeNs) : '',
    ctime: file ? String(stat.ctimeNs) : '',
    written: origin.device ? written(origin.device) : { own: '', disk: '' },
    fileSystems: found,
  };
}

/** In words what makes `now` another origin than the one of `then`; undefined where nothing does. */
export function replaced(then: Constants, now: Constants, sameBoot: boolean): string | undefined {
  if (then.kind !== now.kind) return `the origin was a ${then.kind}, and is a ${now.kind}`;
  if (then.size !== now.size) return `the origin had ${then.size} bytes, and has ${now.size}`;
  if (then.which !== now.which)
    return `the origin is another one: it was ${then.which || 'nameless'}, and is ${now.which || 'nameless'}`;
  if (sameBoot && then.device !== now.device)
    return 'the origin is another file: it lies on another file system';
  return undefined;
}

/** In words the first thing that tells of a write between the two readings; undefined where nothing does. */
export function foreignWrite(then: Identity, now: Identity): string | undefined {
  const sameBoot = then.bootId === now.bootId;
  const other = replaced(then, now, sameBoot);
  if (other) return other;
  if (then.mtime !== now.mtime)
    return `the origin was written to: its modification time was ${when(then.mtime)}, and is ${when(now.mtime)}`;
  if (then.ctime !== now.ctime)
    return `the origin was changed: its inode's time was ${when(then.ctime)}, and is ${when(now.ctime)}`;
  const met = metByDevice(then, now, sameBoot);
  if (met === 'nothing') return undefined;
  return met ?? countersDiffer(then.fileSystems, now.fileSystems);
}

/** Whether the kernel can swear that nothing was written to the device between the two readings. */
export function unwritten(then: Identity, now: Identity): boolean {
  return metByDevice(then, now, then.bootId === now.bootId) === 'nothing';
}

/** `nothing` where the kernel can swear to it. */
function metByDevice(then: Identity, now: Identity, sameBoot: boolean): string | undefined {
  if (!sameBoot || then.written.own === '' || then.written.disk === '') return undefined;
  if (then.written.disk === now.written.disk) return 'nothing';
  // The sequence number tells whether it is the same appearance of the device, of which alone the counts can be compared.
  const [before] = then.written.own.split('/');
  const [after] = now.written.own.split('/');
  if (before !== after || then.written.own === now.written.own) return undefined;
  return 'the device was written to: the kernel has counted writes or discards since';
}

function countersDiffer(
  then: readonly FileSystemCounters[],
  now: readonly FileSystemCounters[],
): string | undefined {
  for (const before of then) {
    const after = now.find(one => one.start === before.start);
    const where = `the ${before.fileSystem} at byte ${before.start}`;
    if (after?.fileSystem !== before.fileSystem) return `${where} is gone`;
    for (const [name, value] of Object.entries(before.values)) {
      const other = after.values[name];
      if (other !== value)
        return `${where} was written to: its ${name} was ${value}, and is ${other ?? 'missing'}`;
    }
  }
  const added = now.find(after => !then.some(one => one.start === after.start));
  return added && `there is a new ${added.fileSystem} at byte ${added.start}`;
}

/**
 * After an unclean stop: in words why somebody else must have written, undefined where nothing says so. `lastAlive` is the
 * daemon's last sign of life, `runBoot` the boot in which it ran.
 */
export function writtenAfterDeath(
  now: Identity,
  runBoot: string,
  lastAlive: Date | undefined,
): string | undefined {
  if (now.kind !== 'file') return undefined;
  const written = Number(BigInt(now.mtime) / 1_000_000n);
  const at = new Date(written).toISOString();
  if (runBoot !== now.bootId) {
    const started = bootTime();
    if (started === undefined || written <= started.getTime()) return undefined;
    return `the origin was written to at ${at}, after the machine had started at ${started.toISOString()}`;
  }
  if (!lastAlive || written <= lastAlive.getTime() + SILENCE_MS) return undefined;
  return `the origin was written to at ${at}; the daemon was last seen alive at ${lastAlive.toISOString()}`;
}

/** When the kernel started, to the second: /proc/stat, `btime`. */
function bootTime(): Date | undefined {
  try {
    const seconds = /^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'latin1'))?.[1];
    return seconds === undefined ? undefined : new Date((Number(seconds) + 1) * 1000);
  } catch (error) {
    if (errnoOf(error) === '') throw error;
    return undefined;
  }
}

function when(nanoseconds: string): string {
  const milliseconds = Number(BigInt(nanoseconds) / 1_000_000n);
  return `${new Date(milliseconds).toISOString()} (${nanoseconds})`;
}
