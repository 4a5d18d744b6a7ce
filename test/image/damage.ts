/**
 * The damage matrix of formats that keep a disk in blocks: what is cut, flipped or swapped gives the right bytes, or
 * bad, or is refused. The judge is the content from which the image was made.
 */
import { writeFileSync } from 'node:fs';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { type Content, readAll } from './reader.js';

export const SECTOR = 512;

/** The newest point and what the doctor finds; the code where the file is refused. */
export function look(path: string): (Content & { findings: number }) | string {
  try {
    const chain = openChain(path);
    try {
      const findings = [...check(chain)].filter(({ severity }) => severity === 'defect').length;
      return { ...readAll(points(chain)[0]!.open()), findings };
    } finally {
      chain.close();
    }
  } catch (error) {
    if (error instanceof AsofError) return error.code;
    throw error;
  }
}

/** Sectors that are neither right nor bad. */
export function wrongSectors({ bytes, bad }: Content, wanted: Buffer): number[] {
  if (bytes.length !== wanted.length) return [-1];
  for (const { offset, length } of bad) wanted.copy(bytes, offset, offset, offset + length);
  const wrong: number[] = [];
  for (let at = 0; at < wanted.length; at += SECTOR) {
    if (
      bytes.compare(
        wanted,
        at,
        Math.min(at + SECTOR, wanted.length),
        at,
        Math.min(at + SECTOR, bytes.length),
      ) !== 0
    )
      wrong.push(at / SECTOR);
  }
  return wrong;
}

export interface Tally {
  cases: number;
  refused: number;
  /** Where something was bad, and where all was right. */
  bad: number;
  whole: number;
  readonly faults: string[];
}

export interface Subject {
  readonly name: string;
  /** Where the changed file goes; its parents lie beside it. */
  readonly path: string;
  readonly bytes: Buffer;
  readonly content: Buffer;
  /** Metadata: each of their bits may be flipped. */
  readonly tables: readonly (readonly [number, number])[];
  /** Flips that the format cannot tell from what a writer may have meant. */
  readonly untold?: (at: number, bit: number) => boolean;
}

export const tally = (): Tally => ({ cases: 0, refused: 0, bad: 0, whole: 0, faults: [] });

export function judge(subject: Subject, bytes: Buffer, label: string, into: Tally): void {
  writeFileSync(subject.path, bytes);
  into.cases++;
  let seen: ReturnType<typeof look>;
  try {
    seen = look(subject.path);
  } catch (error) {
    into.faults.push(`${subject.name}, ${label}: ${error instanceof Error ? error.stack : String(error)}`);
    return;
  }
  if (typeof seen === 'string') {
    into.refused++;
    return;
  }
  if (seen.bad.length > 0 && seen.findings === 0)
    into.faults.push(`${subject.name}, ${label}: bad, and not told`);
  if (seen.bad.length > 0) into.bad++;
  else into.whole++;
  const wrong = wrongSectors(seen, subject.content);
  if (wrong.length > 0) into.faults.push(`${subject.name}, ${label}: sectors ${wrong.slice(0, 5)} are wrong`);
}

/** Numbers below a bound, the same for the same seed. */
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

/** A bit of a table, in turn with cuts. */
export function damaged(subject: Subject, seed: number): { bytes: Buffer; label: string } | undefined {
  const roll = dice(seed);
  if (seed % 4 === 0) {
    const cut = seed % 8 === 0 ? roll(subject.bytes.length) : subject.bytes.length - 1 - roll(2048);
    return { bytes: subject.bytes.subarray(0, cut), label: `cut at ${cut}` };
  }
  const [start, length] = subject.tables[roll(subject.tables.length)]!;
  const at = start + roll(length);
  const bit = roll(8);
  if (subject.untold?.(at, bit)) return undefined;
  const bytes = Buffer.from(subject.bytes);
  bytes[at]! ^= 1 << bit;
  return { bytes, label: `bit ${bit} of byte ${at}` };
}
