/**
 * Damage by seed to an image of every format, in all its files: bits and runs of data and of tables, cuts, segments and links that
 * are gone, swapped or another's. What is read then is what the damaged files hold at the places that the sound image
 * names, or bad, or the image is refused.
 *
 * So the judge knows that a flipped bit of plain data is the bit that is read: it takes the map of the sound image and
 * applies it to the damaged files. Packed and checked chunks have no such bytes: there, only the sound ones are right.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { dice, type Files, type Target } from './damage-matrix.js';
import { readAll } from './reader.js';

export interface Prey {
  readonly name: string;
  readonly files: Files;
  readonly first: string;
  /** Worth hitting: headers and tables. Of these, only single bits are flipped. */
  readonly targets: readonly Target[];
  /** Bits that the format cannot tell from what a writer may have meant. */
  readonly untold?: (name: string, at: number, bit: number) => boolean;
  /** Files that can stand in each other's place without a trace. */
  readonly alike?: (a: string, b: string) => boolean;
  /** Files whose loss cannot be told: the last of segments that nobody counts. */
  readonly dispensable?: (name: string) => boolean;
  /** Places where more than a bit may be changed, since each byte of them is checked. By default nowhere. */
  readonly checked?: boolean;
  /** Other contents that are right as well, such as the state before an entry of a log that was torn. */
  readonly also?: readonly Buffer[];
}

export interface Hunt {
  cases: number;
  refused: number;
  bad: number;
  whole: number;
  skipped: number;
  readonly faults: string[];
}

export const newHunt = (): Hunt => ({ cases: 0, refused: 0, bad: 0, whole: 0, skipped: 0, faults: [] });

interface Sound {
  readonly prey: Prey;
  readonly wanted: Buffer;
  readonly map: readonly {
    readonly file: string;
    readonly from: number;
    readonly to: number;
    readonly length: number;
  }[];
}

/** Reads the sound image, and where its plain bytes lie. Throws where it is not sound. */
export function study(dir: string, prey: Prey, wanted?: Buffer): Sound {
  return inFolder(dir, prey.files, folder => {
    const chain = openChain(join(folder, prey.first));
    try {
      const findings = [...check(chain)].filter(({ severity }) => severity === 'defect');
      if (findings.length > 0) throw new Error(`${prey.name}: ${findings[0]!.what}`);
      const source = points(chain)[0]!.open();
      const { bytes, bad } = readAll(source);
      if (bad.length > 0) throw new Error(`${prey.name} is not sound`);
      if (wanted && !wanted.equals(bytes)) throw new Error(`${prey.name} is not what it was made from`);
      const map: Sound['map'][number][] = [];
      let at = 0;
      for (const run of source.extents(0, source.size)) {
        if (run.kind === 'data')
          map.push({ file: basename(run.file.path), from: run.offset, to: at, length: run.length });
        at += run.length;
      }
      return { prey, wanted: bytes, map };
    } finally {
      chain.close();
    }
  });
}

function inFolder<T>(dir: string, files: Files, use: (folder: string) => T): T {
  const folder = join(dir, 'hunt');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  for (const [name, bytes] of files) writeFileSync(join(folder, name), bytes);
  try {
    return use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** One case. */
export function hunt(dir: string, sound: Sound, seed: number, into: Hunt): void {
  const done = damage(sound, seed);
  if (!done) {
    into.skipped++;
    return;
  }
  into.cases++;
  const label = `${sound.prey.name}, seed ${seed}: ${done.what}`;
  try {
    inFolder(dir, done.files, folder => {
      const chain = openChain(join(folder, sound.prey.first));
      try {
        let told = false;
        for (const { severity } of check(chain)) told ||= severity === 'defect';
        const { bytes, bad } = readAll(points(chain)[0]!.open());
        if (bad.length > 0) into.bad++;
        else into.whole++;
        if (bad.length > 0 && !told && !packedOnly(sound)) into.faults.push(`${label}: bad, and not told`);
        const why = wrong(bytes, bad, [expected(sound, done.files), ...(sound.prey.also ?? [])]);
        if (why) into.faults.push(`${label}: ${why}`);
      } finally {
        chain.close();
      }
    });
  } catch (error) {
    if (error instanceof AsofError) into.refused++;
    else into.faults.push(`${label}: ${error instanceof Error ? error.stack : String(error)}`);
  }
}

/** The doctor does not unpack: that a packed chunk is damaged, it need not say. */
const packedOnly = (sound: Sound) => sound.map.length === 0 || sound.prey.checked === true;

/** The sound content, with what the damaged files have at the places of plain data. */
function expected({ prey, wanted, map }: Sound, files: Files): Buffer {
  const bytes = Buffer.from(wanted);
  for (const { file, from, to, length } of map) {
    const now = files.get(file);
    if (!now || now === prey.files.get(file)) continue;
    if (now.length > from) now.copy(bytes, to, from, Math.min(from + length, now.length));
  }
  return bytes;
}

function wrong(
  bytes: Buffer,
  bad: readonly { offset: number; length: number }[],
  all: readonly Buffer[],
): string | undefined {
  let first: string | undefined;
  for (const wanted of all) {
    if (bytes.length !== wanted.length) {
      first ??= `${bytes.length} bytes in place of ${wanted.length}`;
      continue;
    }
    const shown = Buffer.from(bytes);
    for (const { offset, length } of bad) wanted.copy(shown, offset, offset, offset + length);
    if (shown.equals(wanted)) return undefined;
    first ??= `byte ${shown.findIndex((byte, i) => byte !== wanted[i])} is wrong`;
  }
  return first;
}

/** What a seed does; undefined where that cannot be told from what a writer may have meant. */
function damage({ prey, map }: Sound, seed: number): { files: Files; what: string } | undefined {
  const roll = dice(seed);
  const files = new Map(prey.files);
  const names = [...files.keys()];
  const kind = roll(12);
  if (kind < 6 && prey.targets.length > 0) {
    const [name, start, length] = prey.targets[roll(prey.targets.length)]!;
    const at = start + roll(Math.max(1, length));
    const bit = roll(8);
    const bytes = Buffer.from(files.get(name)!);
    if (at >= bytes.length || prey.untold?.(name, at, bit)) return undefined;
    bytes[at]! ^= 1 << bit;
    return { files: files.set(name, bytes), what: `bit ${bit} of byte ${at} of ${name}` };
  }
  const name = names[roll(names.length)]!;
  const bytes = files.get(name)!;
  if (kind < 8) {
    const cut = kind === 6 ? roll(bytes.length) : Math.max(0, bytes.length - 1 - roll(2048));
    if (prey.dispensable?.(name)) return undefined;
    return { files: files.set(name, bytes.subarray(0, cut)), what: `${name} cut at ${cut}` };
  }
  if (kind < 10) return spoilt(prey, map, files, roll);
  if (names.length < 2) return undefined;
  if (kind === 10) {
    if (prey.dispensable?.(name)) return undefined;
    files.delete(name);
    return { files, what: `${name} is gone` };
  }
  const other = names[roll(names.length)]!;
  if (other === name || prey.alike?.(name, other)) return undefined;
  const swap = roll(2) === 1;
  // Whoever names another sound image gets that one.
  if (!prey.checked && (name === prey.first || (swap && other === prey.first))) return undefined;
  if (!swap) return { files: files.set(name, files.get(other)!), what: `${name} is ${other}` };
  const second = files.get(other)!;
  return { files: files.set(other, bytes).set(name, second), what: `${name} and ${other} swapped` };
}

/** A run of plain data, or, where each byte is checked, of anything. */
function spoilt(
  prey: Prey,
  map: Sound['map'],
  files: Map<string, Buffer>,
  roll: (bound: number) => number,
): { files: Files; what: string } | undefined {
  let name: string;
  let start: number;
  let most: number;
  if (prey.checked) {
    const names = [...files.keys()];
    name = names[roll(names.length)]!;
    start = roll(files.get(name)!.length);
    most = files.get(name)!.length - start;
  } else {
    if (map.length === 0) return undefined;
    const run = map[roll(map.length)]!;
    const skip = roll(run.length);
    name = run.file;
    start = run.from + skip;
    most = run.length - skip;
  }
  const bytes = Buffer.from(files.get(name)!);
  const length = Math.min(most, 1 + roll(700));
  const how = roll(3);
  if (how === 0) bytes[start]! ^= 1 << roll(8);
  else if (how === 1) bytes.fill(0, start, start + length);
  else for (let i = start; i < start + length; i++) bytes[i] = roll(256);
  return { files: files.set(name, bytes), what: `${['bit', 'zeros', 'noise'][how]} at ${start} of ${name}` };
}
