/**
 * VHDX: what others write gives the bytes that others read; logs are replayed in memory, as the peer does on the file.
 */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { DATA_WRITE, seal, vhdx, withLog } from '../fixtures/vhdx.js';
import { look } from './damage.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';
import { content, overlaid, some } from './subjects.js';

const MIB = 2 ** 20;
const dir = folder(t);
const base = content(1, 3 * MIB + 4096 * 3);
const over = noise(2, base.length);
const write = (name: string, bytes: Buffer) => {
  writeFileSync(join(dir, name), bytes);
  return join(dir, name);
};

function whole(path: string, search: string[] = []) {
  const chain = openChain(path, { search });
  try {
    const source = points(chain)[0]!.open();
    const { bytes, bad, reasons } = readAll(source);
    const [member] = chain.members;
    return {
      bytes,
      bad,
      reasons,
      member: member!,
      sectorSize: source.sectorSize,
      findings: [...check(chain)],
    };
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
  const raw = write('peer.raw', content(5, 5 * MIB + 4096));
  for (const subformat of ['fixed', 'dynamic']) {
    const path = join(dir, `${subformat}.vhdx`);
    const options = `subformat=${subformat},block_size=1M`;
    qemuImg('convert', '-f', 'raw', '-O', 'vhdx', '-o', options, raw, path);
    qemuIo(path, ['write -P 7 4500k 3k'], '-f', 'vhdx');
    const { bytes, bad, findings } = whole(path);
    t.same(bad, []);
    t.same(findings, []);
    t.ok(bytes.equals(convert(path, { format: 'vhdx' })), subformat);
  }
});

t.test('what the peer reads, and every state of a block', async t => {
  const state = (block: number) => [6, 2, 6, 3][block]!;
  const path = write('ours.vhdx', vhdx({ content: base, state }).bytes);
  const { bytes, bad } = whole(path);
  t.same(bad, []);
  const wanted = Buffer.from(base);
  wanted.fill(0, MIB, 2 * MIB);
  wanted.fill(0, 3 * MIB);
  t.ok(bytes.equals(wanted));
  t.ok(convert(path, { format: 'vhdx' }).equals(wanted), 'the fixture is an image for the peer');
});

const identity = `{${DATA_WRITE.toUpperCase()}}`;
const locator = {
  parent_linkage: identity,
  relative_path: '.\\parent.vhdx',
  absolute_win32_path: 'C:\\d\\parent.vhdx',
};

t.test('a differencing disk is read over the parent that it was made on', async t => {
  for (const sectorSize of [512, 4096] as const) {
    write('parent.vhdx', vhdx({ content: base, sectorSize }).bytes);
    // Partly, whole, the parent's, undefined: the last is zeros and never the parent's.
    const state = (block: number) => [7, 6, 0, 1][block]!;
    const child = vhdx({
      content: over,
      sectorSize,
      holds: some,
      state,
      parent: locator,
      dataWriteId: `${'9'.repeat(8)}-0000-0000-0000-000000000000`,
    });
    const path = write('child.vhdx', child.bytes);
    const wanted = Buffer.from(base);
    const units = sectorSize / 512;
    overlaid(base, over, sector => some(Math.floor(sector / units))).copy(wanted, 0, 0, MIB);
    over.copy(wanted, MIB, MIB, 2 * MIB);
    wanted.fill(0, 3 * MIB);
    const seen = whole(path);
    t.same(seen.bad, []);
    t.ok(seen.bytes.equals(wanted), `${sectorSize}`);
    t.equal(seen.sectorSize, sectorSize);
  }
  write('parent.vhdx', vhdx({ content: base, dataWriteId: '00000000-0000-0000-0000-000000000001' }).bytes);
  t.match(
    code(join(dir, 'child.vhdx')),
    /^PARENT_MISMATCH: .*00000001/,
    'one that was written to since is refused',
  );
  const other = join(dir, 'other');
  mkdirSync(other);
  writeFileSync(join(other, 'parent.vhdx'), vhdx({ content: base }).bytes);
  t.same(whole(join(dir, 'child.vhdx'), [other]).bad, [], 'and passed over where another is found');
  const two = {
    ...locator,
    parent_linkage: '{00000000-0000-0000-0000-000000000009}',
    parent_linkage2: identity,
  };
  const path = write('two.vhdx', vhdx({ content: over, holds: some, parent: two }).bytes);
  t.same(whole(path, [other]).bad, [], 'the second linkage is as good');
});

t.test('a log is replayed in memory, as the peer replays it in the file', async t => {
  for (const split of [1, 3]) {
    const changes = [
      { offset: 3 * MIB, length: 4096 },
      { offset: 2 * MIB, length: 4096 },
      { offset: 2 * MIB + 65_536, length: 4096 },
    ];
    const { bytes, logEntries } = withLog({ content: base }, changes, split);
    const path = write('dirty.vhdx', bytes);
    const seen = whole(path);
    t.same(seen.bad, []);
    t.ok(seen.bytes.equals(base), `${split} entries`);
    t.ok(readFileSync(path).equals(bytes), 'the file is as it was');
    t.match(seen.findings, [
      { severity: 'note', what: new RegExp(`${split} entries of its log were replayed`) },
    ]);
    const copy = join(dir, 'copy.vhdx');
    copyFileSync(path, copy);
    qemuImg('check', '-q', '-f', 'vhdx', '-r', 'all', copy);
    t.ok(convert(copy, { format: 'vhdx' }).equals(base), 'the peer agrees');

    const cut = Buffer.from(bytes);
    const [at] = logEntries[0]!;
    cut[at + 70]! ^= 1;
    t.match(code(write('log.vhdx', cut)), /^IMAGE_CORRUPT: .*log/, 'a damaged entry is not left out');
  }
});

t.test('a last entry that is not whole is left out, and this is said', async t => {
  const changes = [
    { offset: 2 * MIB, length: 4096 },
    { offset: 3 * MIB, length: 4096 },
  ];
  const { bytes, logEntries } = withLog({ content: base }, changes, 2);
  bytes[logEntries[1]![0] + 5000]! ^= 1;
  const seen = whole(write('torn.vhdx', bytes));
  t.match(seen.member.troubles, [/newest entry of the log is not whole/]);
});

t.test('zeros by the log; a log that writes into data', async t => {
  const { bytes } = vhdx({ content: base, log: [[{ offset: 3 * MIB + 8192, data: 8192 }]] });
  bytes.fill(0xff, 3 * MIB + 8192, 3 * MIB + 16_384);
  t.ok(whole(write('zeros.vhdx', bytes)).bytes.equals(base));
  const data = vhdx({ content: base, log: [[{ offset: 5 * MIB, data: noise(3, 4096) }]] });
  const seen = whole(write('data.vhdx', data.bytes));
  t.same(seen.bad, [{ offset: MIB, length: MIB }]);
  t.same([...seen.reasons], ['the log writes into the block']);
});

t.test('one damaged header or region table is made good by the other, and this is said', async t => {
  for (const at of [64, 128, 192, 256]) {
    const { bytes } = vhdx({ content: base });
    bytes[at * 1024 + 9]! ^= 1;
    const seen = whole(write('one.vhdx', bytes));
    t.ok(seen.bytes.equals(base));
    t.match(seen.member.troubles, [/is damaged; the other one was used/]);
    bytes[(at % 128 === 0 ? at - 64 : at + 64) * 1024 + 9]! ^= 1;
    t.match(code(write('both.vhdx', bytes)), /^IMAGE_CORRUPT/);
  }
  // The newer header tells of a log, and is damaged: without the log the tables would be stale.
  const { bytes } = withLog({ content: base }, [{ offset: 3 * MIB, length: 4096 }]);
  const older = bytes.subarray(65_536, 65_536 + 4096);
  older.fill(0, 48, 64);
  seal(older);
  bytes[131_072 + 9]! ^= 1;
  t.match(code(write('stale.vhdx', bytes)), /^IMAGE_CORRUPT: .*disagrees/);
});

t.test('tables that lie', async t => {
  const sound = vhdx({ content: base });
  const lie = (value: bigint, at = sound.table, from = sound.bytes) => {
    const bytes = Buffer.from(from);
    bytes.writeBigUInt64LE(value, at);
    const seen = look(write('lie.vhdx', bytes));
    return typeof seen === 'string' ? seen : [...seen.reasons].join();
  };
  t.match(lie((5n << 20n) | 6n), /where another block lies/);
  t.match(lie((3n << 20n) | 6n), /within the block table/);
  t.match(lie((1n << 20n) | 6n), /within the log/);
  t.match(lie((1n << 60n) | 6n), /beyond the end/);
  t.match(lie((4n << 20n) | 7n), /there is none/);
  t.match(lie((4n << 20n) | 5n), /in no state/);
  t.match(lie((4n << 20n) | 14n), /in no state/, 'reserved bits');
  write('parent.vhdx', vhdx({ content: base }).bytes);
  const child = vhdx({ content: over, holds: some, parent: locator });
  t.match(lie((4n << 20n) | 6n, child.bitmapEntry, child.bytes), /another block lies|something else lies/);
  t.match(lie(0n, child.bitmapEntry, child.bytes), /bitmap of the block is not in the file/);
});
