/**
 * The segments of an EWF image: NAME.E01 to .E99, then .EAA to .EZZ, .FAA to .ZZZ (for SMART .s01 …), in the letters'
 * case of the first. Each says in its header which one it is. One that is missing, or is not what its name says, leaves
 * a gap; those behind it are used all the same.
 */
import { readdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { ImageFile } from '../block/file.js';
import { AsofError, errnoOf } from '../errors.js';
import { SEGMENT_HEADER } from './ewf-section.js';

export const MAGIC = 'EVF\t\r\n\xff\0';

/** One place in the order of segments: the file, or why there is none. */
export interface Place {
  readonly file: ImageFile | undefined;
  readonly why: string;
}

/** The number in the header of a segment; undefined where it has no such header. Throws IO. */
export function segmentNumber(file: ImageFile): number | undefined {
  const bytes = file.read(0, SEGMENT_HEADER);
  if (bytes.length < SEGMENT_HEADER || bytes.toString('latin1', 0, 8) !== MAGIC) return undefined;
  return bytes.readUInt16LE(9);
}

/** The name of segment `number` of the image whose first is `first`; undefined where there can be none. */
export function segmentName(first: string, number: number): string | undefined {
  const found = /^(.*\.)([A-Za-z])01$/.exec(first);
  if (!found) return undefined;
  const [, stem, letter] = found as unknown as [string, string, string];
  if (number < 100) return `${stem}${letter}${String(number).padStart(2, '0')}`;
  const rest = number - 100;
  const lower = letter >= 'a';
  const a = lower ? 97 : 65;
  const head = letter.charCodeAt(0) + Math.floor(rest / 676);
  if (head > a + 25) return undefined;
  return stem + String.fromCharCode(head, a + (Math.floor(rest / 26) % 26), a + (rest % 26));
}

/** The number of the segment that `name` names, of an image whose first is `first`; 0 where it names none. */
function numberOf(first: string, name: string): number {
  const stem = first.slice(0, -3);
  if (name.length !== first.length || !name.startsWith(stem)) return 0;
  const end = name.slice(-3);
  if (/^.\d\d$/.test(end)) return end[0] === first.at(-3) ? Number(end.slice(1)) : 0;
  const a = first.at(-3)! >= 'a' ? 97 : 65;
  const [head, second, third] = [...end].map(letter => letter.charCodeAt(0)) as [number, number, number];
  if (second < a || second > a + 25 || third < a || third > a + 25) return 0;
  const rest = (head - first.charCodeAt(first.length - 3)) * 676 + (second - a) * 26 + (third - a);
  return rest < 0 ? 0 : 100 + rest;
}

/** How the segments of one image are called. */
export interface Naming {
  /** undefined where there can be none of that number. */
  readonly nameOf: (first: string, number: number) => string | undefined;
  /** 0 where the name is none of the image's. */
  readonly numberOf: (first: string, name: string) => number;
}

/** .E01 and so on. */
export const EWF1: Naming = { nameOf: segmentName, numberOf };

/** .Ex01 to .Ex99, .ExAA to .ExZZ, .EyAA to .EzZZ (EWF2, "Segment file extensions"). */
export const EWF2: Naming = {
  nameOf(first, number) {
    const found = /^(.*\.)([Ee])([Xx])01$/.exec(first);
    if (!found) return undefined;
    const [, stem, letter, x] = found as unknown as [string, string, string, string];
    if (number < 100) return `${stem}${letter}${x}${String(number).padStart(2, '0')}`;
    const rest = number - 100;
    const head = x.charCodeAt(0) + Math.floor(rest / 676);
    if (head > x.charCodeAt(0) + 2) return undefined;
    const a = letter === 'e' ? 97 : 65;
    return stem + letter + String.fromCharCode(head, a + (Math.floor(rest / 26) % 26), a + (rest % 26));
  },
  numberOf(first, name) {
    const end = /^([Ee])([X-Zx-z])(?:(\d\d)|([A-Za-z])([A-Za-z]))$/.exec(name.slice(-4));
    if (!end || name.length !== first.length || !name.startsWith(first.slice(0, -4))) return 0;
    const [, , head, digits, second, third] = end;
    if (digits !== undefined) return Number(digits);
    const place = (letter: string, from: string) => letter.toLowerCase().charCodeAt(0) - from.charCodeAt(0);
    return 100 + place(head!, 'x') * 676 + place(second!, 'a') * 26 + place(third!, 'a');
  },
};

/**
 * The places behind the first, each with its file or without. The last is always an empty one: whether it matters is for
 * who reads the one before to say. A gap is passed as long as the folder of the first holds a later segment.
 */
export function* laterSegments(
  first: ImageFile,
  companion: (name: string) => ImageFile,
  naming: Naming = EWF1,
): Generator<Place, void, undefined> {
  const name = basename(first.path);
  let highest: number | undefined;
  for (let number = 2; ; number++) {
    const wanted = naming.nameOf(name, number);
    if (wanted === undefined) return;
    let file: ImageFile;
    try {
      file = companion(wanted);
    } catch (error) {
      if (!(error instanceof AsofError) || !ABSENT.has(error.code) || isExhausted(error)) throw error;
      highest ??= highestIn(dirname(first.path), name, naming);
      const why = error.code === 'PARENT_MISSING' ? 'is missing' : `cannot be used: ${error.message}`;
      yield { file: undefined, why: `the segment ${wanted} ${why}` };
      if (number > highest) return;
      continue;
    }
    yield { file, why: '' };
  }
}

/** A segment that may not be opened, or that is a link to another one, is as good as none. */
const ABSENT: ReadonlySet<string> = new Set([
  'PARENT_MISSING',
  'PARENT_FORBIDDEN',
  'CHAIN_CYCLE',
  'NOT_FOUND',
  'IO',
]);

/** Too many open files: the segment is there, and no word of the image. */
const isExhausted = ({ cause }: AsofError) => ['EMFILE', 'ENFILE'].includes(errnoOf(cause));

function highestIn(folder: string, first: string, { numberOf: number }: Naming): number {
  let highest = 0;
  for (const name of readdirSync(folder)) highest = Math.max(highest, number(first, name));
  return highest;
}
