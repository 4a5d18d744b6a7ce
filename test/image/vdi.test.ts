/**
 * VDI: what others write gives the bytes that others read; a differencing image finds its parent by its UUIDs.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { vdi } from '../fixtures/vdi.js';
import { look } from './damage.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';
import { content, mixed, overlaid } from './subjects.js';

const dir = folder(t);
const base = content(1);
const over = noise(2, base.length);
const id = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const changed = Buffer.alloc(16, 0x77);
const blockSize = 8192;
const write = (name: string, bytes: Buffer) => {
  writeFileSync(join(dir, name), bytes);
  return join(dir, name);
};

function whole(path: string, search: string[] = []) {
  const chain = openChain(path, { search });
  try {
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    return { bytes, bad, findings: [...check(chain)], paths: chain.members.map(({ file }) => file.path) };
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
  for (const fixed of ['on', 'off']) {
    const path = join(dir, `static-${fixed}.vdi`);
    qemuImg('convert', '-f', 'raw', '-O', 'vdi', '-o', `static=${fixed}`, raw, path);
    qemuIo(path, ['write -P 7 4500k 3k'], '-f', 'vdi');
    const { bytes, bad, findings } = whole(path);
    t.same(bad, []);
    t.same(findings, []);
    t.ok(bytes.equals(convert(path, { format: 'vdi' })), fixed);
  }
});

t.test('what the peer reads', async t => {
  const bytes = content(6, 5 * 2 ** 20 + 4096);
  const path = write('ours.vdi', vdi({ kind: 'dynamic', content: bytes, order: mixed }).bytes);
  t.ok(convert(path, { format: 'vdi' }).equals(bytes), 'the fixture is an image for the peer');
  t.ok(whole(path).bytes.equals(bytes));
});

t.test('blocks of any size, with bytes in front of each, and of zeros', async t => {
  for (const [size, extra] of [
    [512, 0],
    [12_288, 0],
    [65_536, 512],
    [2 ** 22, 4096],
  ] as const) {
    const zeros = (block: number) => block === 2;
    const image = vdi({
      kind: 'dynamic',
      content: base,
      blockSize: size,
      extra,
      zeros,
      order: mixed,
      align: 512,
    });
    const wanted = Buffer.from(base);
    if (size * 2 < base.length) wanted.fill(0, size * 2, Math.min(size * 3, base.length));
    const { bytes, bad } = whole(write('size.vdi', image.bytes));
    t.same(bad, []);
    t.ok(bytes.equals(wanted), `${size} + ${extra}`);
  }
});

t.test('a parent is found by its UUID among the files of the folder', async t => {
  const mine = join(dir, 'mine');
  const elsewhere = join(dir, 'elsewhere');
  mkdirSync(mine);
  mkdirSync(elsewhere);
  const holds = (block: number) => block % 3 === 1;
  const zeros = (block: number) => block === 2;
  const parent = { id, changed };
  const child = vdi({ kind: 'differencing', content: over, blockSize, holds, zeros, parent });
  const path = join(mine, 'child.vdi');
  writeFileSync(path, child.bytes);
  t.match(code(path), /^PARENT_MISSING: .*uuid 33221100-5544-7766-8899-aabbccddeeff/);
  const sound = vdi({ kind: 'dynamic', content: base, blockSize, id, changed }).bytes;
  const wanted = overlaid(base, over, sector => holds(Math.floor((sector * 512) / blockSize)));
  wanted.fill(0, 2 * blockSize, 3 * blockSize);

  // Files of other UUIDs, of none, and unreadable ones, are passed by.
  writeFileSync(join(mine, 'a.vdi'), vdi({ kind: 'dynamic', content: over, blockSize }).bytes);
  writeFileSync(join(mine, 'b.vdi'), sound.subarray(0, 300));
  mkdirSync(join(mine, 'c.vdi'));
  writeFileSync(join(elsewhere, 'z.img'), sound);
  const found = whole(path, [elsewhere]);
  t.same(found.bad, []);
  t.ok(found.bytes.equals(wanted));
  t.same(found.paths, [path, join(elsewhere, 'z.img')]);
  t.same(found.findings, []);

  const newer = vdi({ kind: 'dynamic', content: over, blockSize, id, changed: Buffer.alloc(16, 0x78) }).bytes;
  writeFileSync(join(mine, 'changed.vdi'), newer);
  t.match(code(path), /^PARENT_MISMATCH: .*changed since/);
  t.ok(whole(path, [elsewhere]).bytes.equals(wanted), 'the one that was not changed is found behind it');
  rmSync(join(mine, 'changed.vdi'));
  writeFileSync(join(mine, 'broken.vdi'), sound.subarray(0, 0x1c8));
  const cut = whole(path);
  t.ok(cut.bad.length > 0, 'of a parent that was cut off nothing is made up');
  t.ok(cut.findings.some(({ what }) => /cut off/.test(what)));
});

t.test('an image that is its own parent is none', async t => {
  const alone = join(dir, 'alone');
  mkdirSync(alone);
  const self = vdi({ kind: 'differencing', content: over, blockSize, id, changed, parent: { id, changed } });
  writeFileSync(join(alone, 'self.vdi'), self.bytes);
  t.match(code(join(alone, 'self.vdi')), /^PARENT_MISSING/);
  const other = Buffer.alloc(16, 5);
  const pair = (own: Buffer, parent: Buffer) =>
    vdi({ kind: 'differencing', content: over, blockSize, id: own, changed, parent: { id: parent, changed } })
      .bytes;
  writeFileSync(join(alone, 'self.vdi'), pair(id, other));
  writeFileSync(join(alone, 'pair.vdi'), pair(other, id));
  t.match(code(join(alone, 'self.vdi')), /^PARENT_MISSING/, 'two that stand on each other end');
});

t.test('tables and headers that lie', async t => {
  const { bytes } = vdi({ kind: 'dynamic', content: base, blockSize, align: 512 });
  const lie = (at: number, value: number) => {
    const changed = Buffer.from(bytes);
    changed.writeUInt32LE(value, at);
    const seen = look(write('lie.vdi', changed));
    return typeof seen === 'string' ? seen : [...seen.reasons].join();
  };
  t.match(lie(512, 1), /where another block lies/);
  t.match(lie(512, 0x7fffffff), /behind the last one/);
  t.equal(lie(0x178, 0), 'IMAGE_CORRUPT');
  t.equal(lie(0x180, 0xffffffff), 'IMAGE_CORRUPT');
  t.equal(lie(0x158, 512 * 7), 'IMAGE_CORRUPT');
  t.equal(lie(0x154, 0), 'IMAGE_CORRUPT');
  t.equal(lie(0x44, 2), 'IMAGE_UNSUPPORTED');
  t.equal(lie(0x4c, 3), 'IMAGE_UNSUPPORTED');
  const cut = look(write('cut.vdi', bytes.subarray(0, bytes.length - 5000)));
  t.ok(
    typeof cut !== 'string' &&
      cut.bad.length === 1 &&
      cut.bad[0]!.length === 5000 - (8192 * 19 - base.length),
  );
});

t.test('the files are left as they are', async t => {
  const path = join(dir, 'static-off.vdi');
  const before = readFileSync(path);
  whole(path);
  t.ok(readFileSync(path).equals(before));
});
