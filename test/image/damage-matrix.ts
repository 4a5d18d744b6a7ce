/**
 * The damage matrix of an image in any number of files: changed by a seeded hand, what is read is what the sound image
 * held, or bad, or the image is refused. Nothing else, for no change.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { readAll } from './reader.js';

export type Files = ReadonlyMap<string, Buffer>;

export interface Verdict {
  readonly outcome: 'refused' | 'read';
  /** Bytes that are bad. */
  readonly bad: number;
  /** Where the bad runs are: start and end. */
  readonly runs: readonly (readonly [number, number])[];
  readonly why: string;
  /** Breaches of the rule, a sentence each. */
  readonly faults: readonly string[];
  readonly findings: number;
}

/** Writes `files` to the empty folder `dir` and reads the image `first`, whose disk should hold `wanted`. */
export function judge(dir: string, files: Files, first: string, wanted: Buffer): Verdict {
  for (const [name, bytes] of files) writeFileSync(join(dir, name), bytes);
  try {
    const chain = openChain(join(dir, first));
    try {
      let findings = 0;
      for (const { severity } of check(chain)) if (severity === 'defect') findings++;
      const { bytes, bad, reasons } = readAll(points(chain)[0]!.open());
      return {
        outcome: 'read',
        bad: bad.reduce((sum, { length }) => sum + length, 0),
        runs: bad.map(({ offset, length }) => [offset, offset + length] as const),
        why: [...reasons].join('; '),
        faults: compare(bytes, bad, wanted),
        findings,
      };
    } finally {
      chain.close();
    }
  } catch (error) {
    const refused = error instanceof AsofError;
    const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { outcome: 'refused', bad: 0, runs: [], why, faults: refused ? [] : [why], findings: 0 };
  } finally {
    for (const name of files.keys()) rmSync(join(dir, name), { force: true });
  }
}

function compare(
  bytes: Buffer,
  bad: readonly { offset: number; length: number }[],
  wanted: Buffer,
): string[] {
  if (bytes.length !== wanted.length) return [`${bytes.length} bytes in place of ${wanted.length}`];
  const shown = Buffer.from(bytes);
  for (const { offset, length } of bad) wanted.copy(shown, offset, offset, offset + length);
  if (shown.equals(wanted)) return [];
  const at = shown.findIndex((byte, i) => byte !== wanted[i]);
  return [`byte ${at} is wrong`];
}

/** A generator of numbers below a bound: xorshift, the same for the same seed. */
export function dice(seed: number): (bound: number) => number {
  let state = Math.imul(seed, 2654435761) >>> 0 || 1;
  return bound => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % bound;
  };
}

/** `bytes` with bits changed in one of them. */
export function flipped(bytes: Buffer, at: number, bits: number): Buffer {
  const changed = Buffer.from(bytes);
  changed[at]! ^= bits;
  return changed;
}

/** Where hits are worth most: name of the file, offset, length. */
export type Target = readonly [name: string, offset: number, length: number];

/**
 * The files of a changed image, and what was done. `anywhere`: up to two hits, of which
 * every other is not at a target; else one hit, since two can spoil both copies of a thing alike.
 */
export function change(
  sound: Files,
  targets: readonly Target[],
  seed: number,
  anywhere = true,
): { readonly files: Files; readonly what: string } {
  const roll = dice(seed);
  const files = new Map([...sound].map(([name, bytes]) => [name, Buffer.from(bytes)]));
  const names = [...sound.keys()];
  const done: string[] = [];
  for (let hits = anywhere ? 1 + roll(2) : 1; hits > 0; hits--) {
    let [name, start, length]: Target = targets[roll(targets.length)]!;
    if (anywhere && roll(2) === 0) {
      name = names[roll(names.length)]!;
      start = 0;
      length = files.get(name)?.length ?? 0;
    }
    const bytes = files.get(name);
    if (!bytes || bytes.length === 0) continue;
    const at = Math.min(bytes.length - 1, start + roll(Math.max(1, length)));
    const kind = roll(10);
    done.push(`${kind} at ${at} of ${name}`);
    if (kind < 4) bytes[at]! ^= 1 << roll(8);
    else if (kind < 6) bytes[at] = roll(256);
    else if (kind === 6) bytes.fill(0, at, Math.min(bytes.length, at + 1 + roll(600)));
    else if (kind === 7) files.set(name, bytes.subarray(0, at));
    else if (kind === 8) {
      const word = at - (at % 4);
      if (word + 4 <= bytes.length)
        bytes.writeUInt32LE([0, 1, 0x7fffffff, 0xffffffff, 512, 128][roll(6)]!, word);
    } else if (names.length > 1 && roll(3) === 0) {
      const other = names[roll(names.length)]!;
      const swap = files.get(other);
      if (roll(2) === 0 || !swap) files.delete(name);
      else files.set(name, swap).set(other, bytes);
    }
  }
  return { files, what: `seed ${seed}: ${done.join(', ')}` };
}
