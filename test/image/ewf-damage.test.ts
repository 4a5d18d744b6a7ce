/**
 * The damage matrix of E01: what is hit is an error for exactly its sectors, and never zeros. (ewfmount gives zeros, and
 * others the chunks of swapped segments in each other's place.)
 */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import t from 'tap';
import { missing } from '../peers.js';
import { acquire, acquireFile } from './acquire.js';
import { change, type Files, flipped, judge, type Target } from './damage-matrix.js';
import { folder, noise } from './peer.js';
import { adler32 } from './reader.js';

t.setTimeout(240_000);
const skip = missing(['ewfacquirestream', 'ewfacquire']);
const KIB = 1024;
const CASES = Number(process.env['ASOF_CASES'] ?? 100);

/** No two chunks are alike, so that none can pass for another. */
const BYTES = Buffer.concat([
  noise(1, 900 * KIB),
  Buffer.from(noise(2, 300 * KIB).toString('hex'), 'latin1'),
  noise(3, 1100 * KIB),
]);
const CHUNK = 16 * 512;

const made = folder(t);
const images: Record<string, Files> = skip
  ? {}
  : {
      encase6: load(acquire(join(made, 'e6'), BYTES, ['-f', 'encase6', '-c', 'fast', ...size(16)])),
      encase3: load(acquire(join(made, 'e3'), BYTES, ['-f', 'encase3', '-c', 'none', ...size(16)])),
      smart: load(acquireFile(join(made, 's'), BYTES, ['-f', 'smart', '-c', 'fast', ...size(16)])),
    };

function size(chunk: number): string[] {
  return ['-b', String(chunk), '-S', String(2 ** 20)];
}

function load(paths: readonly string[]): Files {
  return new Map(paths.map(path => [basename(path), readFileSync(path)]));
}

interface Found {
  readonly type: string;
  readonly at: number;
  readonly end: number;
}

/** The sections of one segment, by a parser of its own. */
function sectionsOf(bytes: Buffer): Found[] {
  const found: Found[] = [];
  for (let at = 13; at + 76 <= bytes.length; ) {
    const type = bytes.toString('latin1', at, at + 16).split('\0', 1)[0]!;
    const next = Number(bytes.readBigUInt64LE(at + 16));
    found.push({ type, at, end: next });
    if (next <= at) break;
    at = next;
  }
  return found;
}

/** Descriptors, tables, volumes: and the first bytes of the file. */
function targetsOf(files: Files): Target[] {
  return [...files].flatMap(([name, bytes]) => [
    [name, 0, 13] as const,
    ...sectionsOf(bytes).flatMap(({ type, at, end }): Target[] => {
      const data = Math.max(0, Math.min(end, bytes.length) - at - 76);
      const head: Target = [name, at, 76];
      return type === 'sectors' ? [head] : [head, [name, at + 76, Math.min(data, 1100)]];
    }),
  ]);
}

const section = (files: Files, name: string, type: string): Found =>
  sectionsOf(files.get(name)!).find(one => one.type === type)!;

for (const [format, files] of Object.entries(images)) {
  const dir = folder(t);
  const names = [...files.keys()];
  const first = names[0]!;
  const run = (changed: Files, name = first) => judge(dir, changed, name, BYTES);
  const edited = (name: string, edit: (bytes: Buffer) => Buffer | undefined): Files => {
    const copy = new Map(files);
    const bytes = edit(Buffer.from(files.get(name)!));
    if (bytes) copy.set(name, bytes);
    else copy.delete(name);
    return copy;
  };

  t.test(`${format}: sound`, async t => {
    t.match(run(files), { outcome: 'read', bad: 0, faults: [], findings: 0 });
    t.ok(names.length >= 3, `${names.length} segments`);
  });

  t.test(`${format}: a bit of a chunk is an error of that chunk`, async t => {
    for (const name of names) {
      const { at, end } = section(files, name, format === 'smart' ? 'table' : 'sectors');
      const inner = Math.floor((at + end) / 2);
      const verdict = run(edited(name, bytes => flipped(bytes, inner, 4)));
      t.match(verdict, { outcome: 'read', faults: [] });
      t.equal(verdict.runs.length, 1, 'one run');
      t.ok(verdict.bad > 0 && verdict.bad <= CHUNK, `${verdict.bad} bytes`);
      t.equal(verdict.runs[0]![0] % CHUNK, 0);
    }
  });

  t.test(`${format}: a segment that is missing is an error of its chunks`, async t => {
    let sum = 0;
    const ends: (readonly [number, number])[] = [];
    for (const name of names.slice(1)) {
      const verdict = run(edited(name, () => undefined));
      t.match(verdict, { outcome: 'read', faults: [], why: /is missing/ });
      t.equal(verdict.runs.length, 1);
      ends.push(verdict.runs[0]!);
      sum += verdict.bad;
    }
    ends.forEach(([start], i) => {
      if (i > 0) t.equal(start, ends[i - 1]![1], 'from the end of one to the start of the next');
    });
    t.equal(ends.at(-1)![1], BYTES.length);
    t.ok(sum < BYTES.length);
    t.match(run(edited(first, () => undefined)), { outcome: 'refused', faults: [] });
  });

  t.test(`${format}: segments under each other's names are read in the order that they state`, async t => {
    const [, second, third] = names as [string, string, string];
    const swapped = new Map(files).set(second, files.get(third)!).set(third, files.get(second)!);
    const verdict = run(swapped);
    t.match(verdict, { outcome: 'read', bad: 0, faults: [] });
    t.equal(verdict.findings, 2, 'and that is said');
  });

  t.test(`${format}: one segment twice is an error where it does not belong`, async t => {
    const [, second, third] = names as [string, string, string];
    const verdict = run(new Map(files).set(second, files.get(third)!));
    t.match(verdict, { outcome: 'read', faults: [], why: /says that it is segment 3/ });
    t.equal(verdict.bad, run(edited(second, () => undefined)).bad);
  });

  t.test(`${format}: a segment cut anywhere`, async t => {
    for (const name of names) {
      const { length } = files.get(name)!;
      for (const share of [0, 0.001, 0.1, 0.5, 0.9, 0.995, 0.999]) {
        const verdict = run(edited(name, bytes => bytes.subarray(0, Math.floor(length * share))));
        t.same(verdict.faults, [], `${name} at ${share}`);
        t.ok(verdict.outcome === 'refused' ? name === first : verdict.bad < BYTES.length);
      }
    }
  });

  if (format !== 'smart') {
    t.test(`${format}: the copy of a table is used where the table is damaged`, async t => {
      const [, second] = names as [string, string];
      const table = section(files, second, 'table');
      const copy = section(files, second, 'table2');
      for (const skip of [3, 30, 200]) {
        const one = edited(second, bytes => flipped(bytes, table.at + 76 + skip, 1));
        const verdict = run(one);
        t.match(verdict, { outcome: 'read', bad: 0, faults: [] });
        t.ok(verdict.findings > 0, 'and that is said');
        const bytes = flipped(one.get(second)!, copy.at + 76 + skip, 1);
        const both = run(new Map(one).set(second, bytes));
        t.match(both, { outcome: 'read', faults: [] });
        t.equal(both.bad, run(edited(second, () => undefined)).bad, 'both: the chunks of the table');
      }
    });

    t.test(`${format}: the list of bad sectors of the acquiry`, async t => {
      const last = names.at(-1)!;
      const verdict = run(
        edited(last, bytes =>
          withErrors(bytes, [
            [10, 3],
            [12, 20],
            [1000, 1],
          ]),
        ),
      );
      t.match(verdict, { outcome: 'read', faults: [], why: /could not be read when the image was made/ });
      t.same(verdict.runs, [
        [10 * 512, 32 * 512],
        [1000 * 512, 1001 * 512],
      ]);
    });
  }

  t.test(`${format}: seeded changes`, async t => {
    const targets = targetsOf(files);
    const tally = { read: 0, refused: 0, bad: 0, sound: 0 };
    for (let seed = 1; seed <= CASES; seed++) {
      const { files: changed, what } = change(files, targets, seed);
      const verdict = run(changed);
      if (verdict.faults.length > 0) t.fail(`${what}: ${verdict.faults[0]}`);
      tally[verdict.outcome]++;
      if (verdict.outcome === 'read') tally[verdict.bad > 0 ? 'bad' : 'sound']++;
    }
    t.comment(JSON.stringify(tally));
    t.ok(tally.read > CASES / 2 && tally.bad > CASES / 10, 'most could be read, many with errors');
  });
}

/** The last segment with a list of bad sectors (`first, count` each) before its end. */
function withErrors(bytes: Buffer, runs: readonly (readonly [number, number])[]): Buffer {
  const { at } = sectionsOf(bytes).at(-1)!;
  const data = Buffer.alloc(520 + runs.length * 8 + 4);
  data.writeUInt32LE(runs.length, 0);
  data.writeUInt32LE(adler32(data.subarray(0, 516)), 516);
  runs.forEach(([start, count], i) => {
    data.writeUInt32LE(start, 520 + i * 8);
    data.writeUInt32LE(count, 524 + i * 8);
  });
  const end = data.length - 4;
  data.writeUInt32LE(adler32(data.subarray(520, end)), end);
  const next = at + 76 + data.length;
  return Buffer.concat([
    bytes.subarray(0, at),
    descriptor('error2', next, 76 + data.length),
    data,
    descriptor('done', next, 0),
  ]);
}

function descriptor(type: string, next: number, size: number): Buffer {
  const bytes = Buffer.alloc(76);
  bytes.write(type, 'latin1');
  bytes.writeBigUInt64LE(BigInt(next), 16);
  bytes.writeBigUInt64LE(BigInt(size), 24);
  bytes.writeUInt32LE(adler32(bytes.subarray(0, 72)), 72);
  return bytes;
}
