/**
 * Ex01: what the specification has reads back, and the damage matrix: what is hit is an error for exactly its sectors, and
 * never zeros. The images of libewf itself are in the corpus.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openChain } from '../../src/image/chain.js';
import { type Ex01Shape, ex01 } from '../fixtures/ewf2.js';
import { missing } from '../peers.js';
import { change, type Files, flipped, judge, type Target } from './damage-matrix.js';
import { folder, noise } from './peer.js';
import { adler32 } from './reader.js';

t.setTimeout(240_000);
const skip = missing(['bzip2']);
const CASES = Number(process.env['ASOF_CASES'] ?? 40);
const CHUNK = 4096;
/** Noise, what packs, eight bytes over and over, and zeros; no two chunks of the first two are alike. */
const BYTES = Buffer.concat([
  noise(1, 45 * CHUNK),
  Buffer.from(noise(2, 20 * CHUNK).toString('hex'), 'latin1'),
  Buffer.alloc(6 * CHUNK, 'pattern8'),
  Buffer.alloc(5 * CHUNK),
  noise(3, 9 * CHUNK + 1536),
]);
const METHODS = ['none', 'zlib', 'bzip2'] as const;
const dir = folder(t);

const make = (shape: Partial<Ex01Shape> & Pick<Ex01Shape, 'method'>): Files =>
  ex01({ content: BYTES, perSegment: 30, perTable: 11, ...shape });
const run = (files: Files, wanted = BYTES, name = 'image.Ex01') => judge(dir, files, name, wanted);
const edited = (files: Files, name: string, edit: (bytes: Buffer) => Buffer | undefined): Files => {
  const copy = new Map(files);
  const bytes = edit(Buffer.from(files.get(name)!));
  if (bytes) copy.set(name, bytes);
  else copy.delete(name);
  return copy;
};

interface Found {
  readonly type: number;
  readonly data: number;
  readonly at: number;
}

/** The sections of one segment, by a parser of its own. */
function sections(bytes: Buffer): Found[] {
  const found: Found[] = [];
  for (let at = bytes.length - 64; ; ) {
    found.unshift({ type: bytes.readUInt32LE(at), data: at - Number(bytes.readBigUInt64LE(at + 16)), at });
    const previous = Number(bytes.readBigUInt64LE(at + 8));
    if (previous === 0) return found;
    at = previous;
  }
}

t.test('all of the format', { skip }, async t => {
  for (const method of METHODS) {
    for (const shape of [
      {},
      { hashed: true, perTable: 30 },
      { sectorsPerChunk: 64, perSegment: 4, perTable: 1 },
      { perSegment: 1, perTable: 1, content: BYTES.subarray(0, 120 * 512), sectorsPerChunk: 1 },
    ]) {
      const files = make({ method, ...shape });
      const verdict = run(files, 'content' in shape ? shape.content : BYTES);
      t.match(
        verdict,
        { outcome: 'read', bad: 0, faults: [], findings: 0 },
        `${method} ${files.size} segments`,
      );
    }
    const wide = BYTES.subarray(0, 40 * 4096);
    t.match(run(make({ method, content: wide, bytesPerSector: 4096, sectorsPerChunk: 3 }), wide), {
      outcome: 'read',
      bad: 0,
      faults: [],
    });
  }
});

t.test('what it says of itself', { skip }, async t => {
  for (const [name, bytes] of make({ method: 'bzip2' })) writeFileSync(join(dir, name), bytes);
  const chain = openChain(join(dir, 'image.Ex01'));
  t.teardown(() => chain.close());
  const [image] = chain.members;
  t.match(Object.fromEntries(image!.metadata ?? []), {
    case: 'case 7',
    examiner: 'E. Xaminer',
    acquired: '2023-11-14T22:13:20.000Z',
    serial: 'S1',
  });
  t.same(
    image!.digests?.map(({ algorithm }) => algorithm),
    ['md5', 'sha1'],
  );
});

for (const method of METHODS) {
  const files = skip ? new Map<string, Buffer>() : make({ method });
  const names = [...files.keys()];

  t.test(`${method}: a bit of a chunk is an error of that chunk`, { skip }, async t => {
    for (const name of names) {
      const at = sections(files.get(name)!).find(({ type }) => type === 3)!.data + 2000;
      const verdict = run(edited(files, name, bytes => flipped(bytes, at, 4)));
      t.match(verdict, { outcome: 'read', faults: [] });
      t.equal(verdict.bad, CHUNK);
    }
  });

  t.test(`${method}: a table that is damaged is an error of its own chunks`, { skip }, async t => {
    for (const skipped of [2, 40, 100]) {
      const tables = sections(files.get(names[1]!)!).filter(({ type }) => type === 4);
      const verdict = run(edited(files, names[1]!, bytes => flipped(bytes, tables[1]!.data + skipped, 1)));
      t.match(verdict, { outcome: 'read', faults: [], runs: [[41 * CHUNK, 52 * CHUNK]] });
      t.ok(verdict.findings > 0);
    }
  });

  t.test(`${method}: a segment that is missing, doubled, swapped, or of another image`, { skip }, async t => {
    for (const name of names.slice(1)) {
      const verdict = run(edited(files, name, () => undefined));
      const first = names.indexOf(name) * 30 * CHUNK;
      const runs = [[first, Math.min(BYTES.length, first + 30 * CHUNK)]];
      t.match(verdict, { outcome: 'read', faults: [], why: /is missing/, runs });
    }
    const [one, two, three] = names as [string, string, string];
    const swapped = run(new Map(files).set(two, files.get(three)!).set(three, files.get(two)!));
    t.match(swapped, { outcome: 'read', bad: 0, faults: [], findings: 2 });
    const doubled = run(new Map(files).set(two, files.get(three)!));
    t.match(doubled, { outcome: 'read', faults: [], runs: [[30 * CHUNK, 60 * CHUNK]] });
    const other = run(edited(files, two, bytes => flipped(bytes, 20, 1)));
    t.match(other, { outcome: 'read', faults: [], why: /another image/, runs: [[30 * CHUNK, 60 * CHUNK]] });
    t.match(run(edited(files, one, () => undefined)), { outcome: 'refused', faults: [] });
    t.match(run(files, BYTES, two), { outcome: 'refused', faults: [], why: /segment 2/ });
  });

  t.test(`${method}: a segment cut anywhere`, { skip }, async t => {
    for (const name of names) {
      const { length } = files.get(name)!;
      for (const share of [0, 0.001, 0.02, 0.1, 0.5, 0.9, 0.995, 0.999]) {
        const verdict = run(edited(files, name, bytes => bytes.subarray(0, Math.floor(length * share))));
        t.same(verdict.faults, [], `${name} at ${share}`);
        t.ok(verdict.outcome === 'refused' ? name === names[0] : verdict.bad < BYTES.length);
      }
    }
  });

  t.test(`${method}: seeded changes`, { skip }, async t => {
    const targets = [...files].flatMap(([name, bytes]) => [
      [name, 0, 32] as Target,
      ...sections(bytes).flatMap(({ type, data, at }): Target[] =>
        type === 3
          ? [[name, at, 64]]
          : [
              [name, at, 64],
              [name, data, at - data],
            ],
      ),
    ]);
    const tally = { read: 0, refused: 0, bad: 0 };
    for (let seed = 1; seed <= CASES; seed++) {
      const { files: changed, what } = change(files, targets, seed);
      const verdict = run(changed);
      if (verdict.faults.length > 0) t.fail(`${what}: ${verdict.faults[0]}`);
      tally[verdict.outcome]++;
      if (verdict.bad > 0) tally.bad++;
    }
    t.comment(JSON.stringify(tally));
    t.ok(tally.read > CASES / 3 && tally.bad > CASES / 10, 'many could be read, some with errors');
  });
}

t.test('evidence that holds an image does not pass for one', { skip }, async t => {
  const inner = [...ex01({ content: noise(9, 20 * CHUNK), method: 'none' }).values()][0]!;
  const content = Buffer.concat([inner, Buffer.alloc((CHUNK - (inner.length % CHUNK)) % CHUNK)]);
  const files = ex01({ content, method: 'none' });
  const cut = edited(files, 'image.Ex01', bytes => bytes.subarray(0, bytes.length - 1000));
  t.same(run(cut, content).faults, []);
  t.ok(run(files, content).bad === 0);
});

t.test('sectors that the acquiry could not read', { skip }, async t => {
  const files = make({
    method: 'zlib',
    errors: [
      [12, 20],
      [10, 3],
      [700, 1],
    ],
  });
  t.match(run(files), {
    outcome: 'read',
    faults: [],
    why: /could not be read when the image was made/,
    runs: [
      [10 * 512, 32 * 512],
      [700 * 512, 701 * 512],
    ],
  });
});

t.test('what is refused, and how', { skip }, async t => {
  const files = make({ method: 'zlib' });
  const changed = (at: number, value: number) =>
    edited(files, 'image.Ex01', bytes => {
      bytes[at] = value;
      return bytes;
    });
  t.match(run(changed(10, 9)), { outcome: 'refused', faults: [], why: /IMAGE_UNSUPPORTED|compression 9/ });
  t.match(run(changed(8, 3)), { outcome: 'refused', faults: [], why: /version 3/ });
  t.match(run(changed(2, 0)), { outcome: 'refused', faults: [], why: /no segment of an Ex01/ });
  t.match(run(make({ method: 'zlib', encrypted: true })), {
    outcome: 'refused',
    faults: [],
    why: /is encrypted/,
  });
  t.equal(
    adler32(Buffer.from('Wikipedia')),
    0x11e60398,
    'the checksum of the fixtures is the one of RFC 1950',
  );
});
