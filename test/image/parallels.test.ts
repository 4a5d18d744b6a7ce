/**
 * Parallels: what others write gives the bytes that others read; a file of a bundle stands on the one that the descriptor says,
 * and never on nothing by accident.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { type BundlePart, type BundleShape, descriptor, NIL, parallels } from '../fixtures/parallels.js';
import { look } from './damage.js';
import { type Files, judge } from './damage-matrix.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';
import { content, mixed, overlaid } from './subjects.js';

const dir = folder(t);
const base = content(1);
const over = noise(2, base.length);
const blockSize = 8192;
const write = (name: string, bytes: Buffer) => {
  writeFileSync(join(dir, name), bytes);
  return join(dir, name);
};

function whole(path: string, format?: string) {
  const chain = openChain(path, { format });
  try {
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    return { bytes, bad, findings: [...check(chain)], members: chain.members.length };
  } finally {
    chain.close();
  }
}

function code(path: string): string {
  try {
    openChain(path).close();
    return 'opened';
  } catch (error) {
    if (error instanceof AsofError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

t.test('what the peer writes', async t => {
  const raw = write('peer.raw', content(5, 5 * 2 ** 20 + 4096));
  for (const cluster of ['64k', '1M']) {
    const path = join(dir, `peer-${cluster}.hdd`);
    qemuImg('convert', '-f', 'raw', '-O', 'parallels', '-o', `cluster_size=${cluster}`, raw, path);
    qemuIo(path, ['write -P 7 4500k 3k'], '-f', 'parallels');
    const { bytes, bad, findings } = whole(path);
    t.same(bad, []);
    t.same(findings, []);
    t.ok(bytes.equals(convert(path, { format: 'parallels' })), cluster);
  }
});

t.test('what the peer reads', async t => {
  const holds = (block: number) => block % 4 !== 1;
  const wanted = overlaid(Buffer.alloc(base.length), base, sector => holds(Math.floor(sector / 16)));
  for (const entries of ['sectors', 'blocks'] as const) {
    for (const unstated of entries === 'sectors' ? [false, true] : [false]) {
      const path = write(
        'ours.hdd',
        parallels({ content: base, entries, holds, order: mixed, unstated }).bytes,
      );
      t.ok(convert(path, { format: 'parallels' }).equals(wanted), 'the fixture is an image for the peer');
      const { bytes, bad, findings } = whole(path);
      t.same([bad, findings], [[], []]);
      t.ok(bytes.equals(wanted), `${entries} ${unstated}`);
    }
  }
});

t.test('a file that was not closed is read, and said so', async t => {
  const path = write('open.hdd', parallels({ content: base, entries: 'blocks', inUse: 0x746f6e59 }).bytes);
  const { bytes, findings } = whole(path);
  t.ok(bytes.equals(base));
  t.match(findings, [{ severity: 'note', what: /was not closed/ }]);
});

t.test('tables and headers that lie', async t => {
  const { bytes } = parallels({ content: base, entries: 'sectors' });
  const lie = (at: number, value: number) => {
    const changed = Buffer.from(bytes);
    changed.writeUInt32LE(value, at);
    const seen = look(write('lie.hdd', changed));
    return typeof seen === 'string' ? seen : [...seen.reasons].join();
  };
  t.match(lie(64, 32), /where another block lies/);
  t.match(lie(64, 17), /between two blocks/);
  t.match(lie(64, 3), /in front of the data/);
  t.match(lie(64, 0x7ffffff0), /beyond the end of the file/);
  t.equal(lie(36, 16), 'IMAGE_CORRUPT', 'a table with blocks behind the end');
  t.equal(lie(36, 0xffffffff), 'IMAGE_CORRUPT');
  t.equal(lie(40, 1), 'IMAGE_CORRUPT');
  t.equal(lie(28, 0), 'IMAGE_CORRUPT');
  t.match(lie(48, 0x10000), /in front of the data/);
  t.equal(lie(52, 1), 'IMAGE_CORRUPT', 'empty, and not');
  t.equal(lie(16, 3), 'IMAGE_UNSUPPORTED');
  t.match(lie(56, 16), /where another block lies/, 'the extension is no block');
});

const [ONE, TWO, TOP] = [
  '{11111111-1111-1111-1111-111111111111}',
  '{22222222-2222-2222-2222-222222222222}',
  '{5fbaabe3-6958-40ff-92a7-860e329aab41}',
];
const sectors = base.length / 512;
const CUT = 160;
const held = [() => true, (block: number) => block % 3 === 1, (block: number) => block % 5 === 2] as const;

/** A disk in two parts with three states, of which the lower ones are expanding and plain. */
function bundle(shape: Partial<BundleShape> = {}): { files: Files; wanted: Buffer[] } {
  const contents = [base, over, noise(3, base.length)];
  const guids = [ONE, TWO, TOP];
  const files = new Map<string, Buffer>();
  const parts: BundlePart[] = [
    { start: 0, end: CUT, images: [] },
    { start: CUT, end: sectors, images: [] },
  ].map(({ start, end }, part) => ({
    start,
    end,
    images: guids.map((guid, state) => {
      const file = `disk.hdd.${part}.${guid}.hds`;
      const plain = state === 0 && part === 1;
      const bytes = contents[state]!.subarray(start * 512, end * 512);
      files.set(
        file,
        plain
          ? bytes
          : parallels({ content: bytes, entries: 'blocks', blockSize, holds: held[state]! }).bytes,
      );
      return { guid, type: plain ? 'Plain' : 'Compressed', file };
    }),
  }));
  const shots = [
    [ONE, NIL],
    [TWO, ONE],
    [TOP, TWO],
  ] as const;
  files.set('DiskDescriptor.xml', descriptor({ parts, shots, ...shape }));
  const wanted: Buffer[] = [base];
  for (const state of [1, 2]) {
    // Blocks are counted in each part.
    const inPart = (sector: number) =>
      held[state]!(Math.floor((sector < CUT ? sector : sector - CUT) / (blockSize / 512)));
    wanted.push(overlaid(wanted[state - 1]!, contents[state]!, inPart));
  }
  return { files, wanted };
}

t.test('a bundle: states that stand on each other, in parts', async t => {
  const { files, wanted } = bundle();
  const place = join(dir, 'whole.hdd');
  mkdirSync(place);
  for (const [name, bytes] of files) writeFileSync(join(place, name), bytes);
  for (const [name, state] of [
    ['DiskDescriptor.xml', 2],
    [`disk.hdd.0.${TOP}.hds`, 2],
    [`disk.hdd.0.${TWO}.hds`, 1],
    [`disk.hdd.0.${ONE}.hds`, 0],
  ] as const) {
    const { bytes, bad, findings, members } = whole(join(place, name));
    t.same([bad, findings, members], [[], [], state + 1], name);
    t.ok(bytes.equals(wanted[state]!), name);
  }
  for (const state of [ONE, TWO])
    t.match(code(join(place, `disk.hdd.1.${state}.hds`)), /IMAGE_UNSUPPORTED: .*not the first part/);
  for (const file of [ONE, TWO].map(state => `disk.hdd.0.${state}.hds`)) {
    rmSync(join(place, file));
    t.match(code(join(place, 'DiskDescriptor.xml')), /PARENT_MISSING/);
    writeFileSync(join(place, file), files.get(file)!);
  }
});

t.test('a file of a bundle does not stand alone', async t => {
  const { files, wanted } = bundle();
  const place = join(dir, 'torn');
  mkdirSync(place);
  const first = `disk.hdd.0.${TOP}.hds`;
  const torn = (edit: (files: Map<string, Buffer>) => void, name = first) => {
    const changed = new Map(files);
    edit(changed);
    return judge(place, changed, name, wanted[2]!);
  };
  const refused = (why: RegExp) => ({ outcome: 'refused' as const, faults: [], why });
  t.match(
    torn(files => files.delete('DiskDescriptor.xml')),
    refused(/whether it stands on another file is not known/),
  );
  const other = (shape: Partial<BundleShape>) => bundle(shape).files.get('DiskDescriptor.xml')!;
  const with_ = (bytes: Buffer | string) =>
    torn(files => files.set('DiskDescriptor.xml', Buffer.from(bytes)));
  const text = files.get('DiskDescriptor.xml')!.toString();
  t.match(with_(text.replaceAll(first, 'another.hds')), refused(/does not name it/));
  t.match(with_(other({ engine: TWO })), refused(/encrypted/));
  t.match(with_(other({ shots: [[TOP, TWO]] })), refused(/nothing says what/));
  t.match(
    with_(
      other({
        shots: [
          [ONE, NIL],
          [TWO, ONE],
          [TOP, TOP],
        ],
      }),
    ),
    refused(/stands on itself/),
  );
  t.match(
    with_(
      other({
        shots: [
          [ONE, TWO],
          [TWO, ONE],
          [TOP, TWO],
        ],
      }),
    ),
    refused(/CHAIN_CYCLE|already a member/),
  );
  t.match(with_(other({ blockSize: 32 })), refused(/where the descriptor says/));
  t.match(with_(text.replace(/<Disk_size>\d+/, '<Disk_size>7')), refused(/where the disk has/));
  t.match(with_(text.slice(0, -30)), refused(/no sound descriptor/));
  t.match(with_(text.replace('</Name>', `</Name>${'<x/>'.repeat(200_000)}`)), {
    outcome: 'read',
    faults: [],
  });
  t.match(with_(text.replace('a &amp; b', '&lol;')), refused(/no sound descriptor/));
  const entity = '<!DOCTYPE x [<!ENTITY a "b">]>';
  t.match(
    with_(text.replace('<Parallels_disk_image', `${entity}<Parallels_disk_image`)),
    refused(/no sound descriptor/),
  );
  t.match(with_(Buffer.concat([Buffer.from(text), Buffer.alloc(2 ** 20, ' ')])), refused(/more than/));
  t.equal(with_(other({ top: TWO })).faults.length, 0, 'the file that is named counts');
  const swapped = torn(files => {
    const [a, b] = [`disk.hdd.0.${TOP}.hds`, `disk.hdd.1.${TOP}.hds`];
    files.set(a, files.get(b)!).set(b, files.get(a)!);
  }, 'DiskDescriptor.xml');
  t.match(swapped, refused(/where the descriptor says/));
});

t.test('seeded changes of a descriptor: the right bytes, or none', async t => {
  const { files, wanted } = bundle();
  const place = join(dir, 'seeds');
  mkdirSync(place);
  const text = files.get('DiskDescriptor.xml')!;
  let refused = 0;
  for (let i = 0; i < 300; i++) {
    const at = (i * 7919) % text.length;
    const bytes = Buffer.from(text);
    bytes[at]! ^= 1 << (i % 8);
    const changed = i % 10 === 0 ? text.subarray(0, at) : bytes;
    const verdict = judge(
      place,
      new Map(files).set('DiskDescriptor.xml', changed),
      `disk.hdd.0.${TOP}.hds`,
      wanted[2]!,
    );
    t.same(verdict.faults, [], `${i} at ${at}`);
    if (verdict.outcome === 'refused') refused++;
  }
  t.ok(refused > 100);
});

t.test('the files are left as they are', async t => {
  const path = join(dir, 'peer-1M.hdd');
  const before = readFileSync(path);
  whole(path);
  t.ok(readFileSync(path).equals(before));
});
