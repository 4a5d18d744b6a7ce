/**
 * AFF4: every packing and kind of run reads back; what the image does not hold is an error, never zeros; damage is an error of
 * its own chunks. Images of others are in the corpus.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { Digesting } from '../../src/stored-digest.js';
import { type Aff4Method, type Aff4Shape, aff4 } from '../fixtures/aff4.js';
import { look } from './damage.js';
import { change, type Files, flipped, judge } from './damage-matrix.js';
import { folder, noise } from './peer.js';
import { readAll } from './reader.js';

t.setTimeout(240_000);
const CASES = Number(process.env['ASOF_CASES'] ?? 60);
const METHODS: readonly Aff4Method[] = ['none', 'snappy', 'lz4', 'zlib', 'deflate'];
const CHUNK = 4096;
const dir = folder(t);

const content = Buffer.concat([
  Buffer.from(noise(1, 12 * CHUNK).toString('hex'), 'latin1'),
  noise(2, 6 * CHUNK),
  Buffer.alloc(CHUNK, 'abcde'),
  Buffer.alloc(4 * CHUNK),
  Buffer.alloc(2 * CHUNK, 0xff),
  Buffer.alloc(CHUNK),
  noise(3, 3 * CHUNK + 512),
]);
const RUNS = [
  [24 * CHUNK, 0],
  [7 * CHUNK, 0],
  [4 * CHUNK, 'Zero'],
  [2 * CHUNK, 'SymbolicStreamFF'],
  [CHUNK, 'gap'],
  [3 * CHUNK + 512, 0],
] as const;
const make = (method: Aff4Method, shape: Partial<Aff4Shape> = {}) =>
  aff4({ content, runs: RUNS, method, ...shape });
const one = (method: Aff4Method, shape: Partial<Aff4Shape> = {}) => make(method, shape)[0]!.bytes;
const write = (name: string, bytes: Buffer) => {
  writeFileSync(join(dir, name), bytes);
  return join(dir, name);
};
const run = (files: Files, wanted = content, name = 'a.aff4') => judge(dir, files, name, wanted);

t.test('every packing reads back', async t => {
  const engine = new Engine({ cacheBytes: 2 ** 22, mapBytes: 2 ** 22, threads: 2 });
  t.teardown(() => engine.close());
  for (const method of METHODS) {
    for (const shape of [{}, { deflated: true, zip64: true }, { chunk: 512, perBevy: 3 }]) {
      const path = write('whole.aff4', one(method, shape));
      const chain = openChain(path);
      const { bytes, bad } = readAll(points(chain)[0]!.open());
      t.same(bad, []);
      t.ok(bytes.equals(content), `${method} ${JSON.stringify(shape)}`);
      const disk = new Disk(engine, points(chain)[0]!.open());
      t.ok((await disk.read(0, disk.size)).equals(content), 'by the engine');
      disk.close();
      chain.close();
    }
  }
  const padded = look(write('padded.aff4', one('snappy', { padded: true })));
  t.ok(typeof padded !== 'string' && padded.bytes.equals(content), 'a last chunk that is filled up');
});

t.test('what it says of itself, and its digests', async t => {
  const chain = openChain(write('says.aff4', one('snappy')));
  t.teardown(() => chain.close());
  const { metadata, digests } = chain.members[0]!;
  t.equal(new Map(metadata).get('make'), 'a "make"');
  t.equal(new Map(metadata).get('model'), 'of "two"\nlines');
  t.same(
    digests!.map(stored => {
      const digesting = new Digesting(stored);
      digesting.update(0, content);
      return [stored.algorithm, digesting.digest() === stored.value];
    }),
    [
      ['md5', true],
      ['blake2b512', true],
    ],
  );
});

t.test('what was not read, or not acquired, or is not known, is an error', async t => {
  for (const [word, why] of [
    ['UnreadableData', /could not be read when the image was made/],
    ['UnknownData', /was not acquired/],
    ['Whatever', /not known/],
  ] as const) {
    const runs = RUNS.map(([length, to]) => [length, to === 'Zero' ? word : to] as const);
    const verdict = run(new Map([['a.aff4', one('snappy', { runs })]]));
    t.match(verdict, { outcome: 'read', faults: [], why, runs: [[31 * CHUNK, 35 * CHUNK]] });
    t.ok(verdict.findings > 0);
    const gap = run(new Map([['a.aff4', one('snappy', { gap: word })]]));
    t.match(gap, { outcome: 'read', faults: [], why, runs: [[37 * CHUNK, 38 * CHUNK]] });
  }
});

t.test('a set of containers', async t => {
  const runs = RUNS.map(([length, to], i) => [length, typeof to === 'number' ? i % 2 : to] as const);
  const set = make('snappy', { runs, streams: 2 });
  const files = new Map(set.map(({ bytes }, i) => [`disk_${i + 1}.aff4`, bytes]));
  for (const name of files.keys()) {
    t.match(run(files, content, name), { outcome: 'read', bad: 0, faults: [], findings: 0 });
    const alone = new Map([[name, files.get(name)!]]);
    t.match(run(alone, content, name), {
      outcome: 'refused',
      faults: [],
      why: /PARENT_MISSING|another container/,
    });
  }
  const [first, second] = files.keys() as unknown as [string, string];
  const cut = new Map(files).set(second, files.get(second)!.subarray(0, 9000));
  t.match(run(cut, content, first), { outcome: 'refused', faults: [] }, 'one that is cut off is none');
});

for (const method of METHODS) {
  const { bytes, at, directory } = make(method)[0]!;
  const places = [...at];

  t.test(`${method}: a bit of an index, a map, a description`, async t => {
    for (const [name, [start, length]] of places) {
      if (/\/\d{8}$/.test(name) || name === 'container.description') continue;
      const verdict = run(new Map([['a.aff4', flipped(bytes, start + (length >> 1), 4)]]));
      t.same(verdict.faults, [], name);
      if (!name.endsWith('.index')) t.equal(verdict.outcome, 'refused', name);
      else {
        const bevy = Number(name.slice(-14, -6));
        t.equal(verdict.outcome, 'read');
        t.match(verdict.why, /does not match its checksum/);
        t.ok(verdict.bad <= 8 * CHUNK && verdict.bad > 0, `the bevy ${bevy} alone is bad`);
      }
    }
  });

  t.test(`${method}: seeded changes`, async t => {
    // A chunk that is plain, or of a packing without checksum, is what the file holds: its bytes are not hit.
    const targets = [
      ...places.filter(([name]) => method === 'zlib' || !/\/\d{8}$/.test(name)).map(([, place]) => place),
      directory,
    ].map(([start, length]) => ['a.aff4', start, length] as const);
    const plain = new Set<number>();
    const tally = { read: 0, refused: 0, bad: 0 };
    for (let seed = 1; seed <= CASES; seed++) {
      const { files, what } = change(new Map([['a.aff4', bytes]]), targets, seed, false);
      if (/^seed \d+: 6 /.test(what)) continue; // Zeros over hundreds of bytes may reach into the data.
      const verdict = run(files);
      const noisy = /byte (\d+) is wrong/.exec(verdict.faults[0] ?? '')?.[1];
      // Noise does not pack: its chunks are plain.
      if (method === 'zlib' && noisy && Number(noisy) >= 24 * CHUNK) plain.add(seed);
      else if (verdict.faults.length > 0) t.fail(`${what}: ${verdict.faults[0]}`);
      tally[verdict.outcome]++;
      if (verdict.bad > 0) tally.bad++;
    }
    t.comment(JSON.stringify(tally));
    t.ok(tally.refused > CASES / 10);
  });

  t.test(`${method}: cut anywhere`, async t => {
    for (const share of [0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.9999]) {
      const cut = bytes.subarray(0, Math.floor(bytes.length * share));
      t.match(run(new Map([['a.aff4', cut]])), { outcome: 'refused', faults: [] }, `${share}`);
    }
  });
}

t.test('what is refused, and how', async t => {
  const refused = (edit: (text: string) => string, name = 'r.aff4') =>
    look(write(name, one('snappy', { edit })));
  t.equal(look(write('large.aff4', one('snappy', { size: '9223372036854775296' }))), 'IMAGE_UNSUPPORTED');
  t.equal(look(write('small.aff4', one('snappy', { size: '4096' }))), 'IMAGE_CORRUPT');
  t.equal(
    refused(text => text.replace(/snappy\/>/, 'other/>')),
    'IMAGE_UNSUPPORTED',
  );
  t.equal(
    refused(text => text.replace('aff4:Image, aff4:DiskImage', 'aff4:FileImage')),
    'IMAGE_UNSUPPORTED',
  );
  t.equal(
    refused(text => text.replace('a aff4:Map', 'a aff4:EncryptedStream , aff4:Map')),
    'IMAGE_ENCRYPTED',
  );
  t.equal(
    refused(text => text.replace('aff4:stored :', 'aff4:stored [ a aff4:X ]')),
    'IMAGE_CORRUPT',
  );
  t.equal(
    refused(text => text.replace(/chunkSize "\d+"/, 'chunkSize "99999999"')),
    'IMAGE_UNSUPPORTED',
  );
  t.equal(
    refused(text => text.slice(0, 700)),
    'IMAGE_CORRUPT',
  );
  t.equal(look(write('noise.aff4', noise(3, 5000))), 'IMAGE_CORRUPT');
  t.equal(
    look(write('aff1.img', Buffer.concat([Buffer.from('AFF10\r\n\0'), noise(3, 5000)]))),
    'IMAGE_UNSUPPORTED',
  );
  const overlapping = [
    [RUNS[0]![0], 0],
    [RUNS[1]![0], 0],
  ] as const;
  const short = look(write('short.aff4', one('snappy', { runs: overlapping, size: String(content.length) })));
  t.ok(typeof short !== 'string', 'the rest is a gap');
});

t.test('the file is left as it is', async t => {
  const path = write('kept.aff4', one('zlib'));
  const before = readFileSync(path);
  look(path);
  t.ok(readFileSync(path).equals(before));
});
