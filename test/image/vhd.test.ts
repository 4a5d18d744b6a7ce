/**
 * VHD: what others write gives the bytes that others read, and what damages it is told.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { vhd } from '../fixtures/vhd.js';
import { missing } from '../peers.js';
import { look } from './damage.js';
import { folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';
import { content, mixed, overlaid, some } from './subjects.js';

const dir = folder(t);
const base = content(1);
const over = noise(2, base.length);
const id = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const write = (name: string, bytes: Buffer) => {
  writeFileSync(join(dir, name), bytes);
  return join(dir, name);
};

/** The bytes of the newest point, none of which may be bad; and the findings. */
function whole(path: string, search: string[] = []) {
  const chain = openChain(path, { search });
  try {
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    const [member] = chain.members;
    return { bytes, bad, member: member!, findings: [...check(chain)], depth: chain.members.length };
  } finally {
    chain.close();
  }
}

function code(path: string, options = {}): string {
  try {
    openChain(path, options).close();
    return 'opened';
  } catch (error) {
    if (error instanceof AsofError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

t.test('what the peer writes', async t => {
  const raw = write('peer.raw', content(5, 5 * 2 ** 20 + 4096));
  for (const subformat of ['fixed', 'dynamic']) {
    const path = join(dir, `${subformat}.vhd`);
    const options = `subformat=${subformat},force_size=on`;
    qemuImg('convert', '-f', 'raw', '-O', 'vpc', '-o', options, raw, path);
    if (subformat === 'dynamic') qemuIo(path, ['write -P 7 4500k 3k'], '-f', 'vpc');
    qemuImg('convert', '-f', 'vpc', '-O', 'raw', path, `${path}.raw`);
    const { bytes, bad, findings, member } = whole(path);
    t.same(bad, []);
    t.same(findings, []);
    t.ok(bytes.equals(readFileSync(`${path}.raw`)), subformat);
    t.ok(member.features.includes(`type=${subformat}`));
  }
});

t.test('the size is CurrentSize, whatever the geometry and OriginalSize say', async t => {
  const path = write(
    'size.vhd',
    vhd({ kind: 'dynamic', content: base, originalSize: 512, order: mixed }).bytes,
  );
  const { bytes } = whole(path);
  t.ok(bytes.equals(base));
});

/** A chain of three, each member holding what the two tests say; the path of the newest. */
function chainOf(
  name: string,
  disks: readonly [Buffer, Buffer, Buffer],
  holds: readonly [(sector: number) => boolean, (sector: number) => boolean],
  blockSize: number,
): string {
  write(
    `${name}-0.vhd`,
    vhd({ kind: 'dynamic', content: disks[0], id: Buffer.alloc(16, 1), blockSize }).bytes,
  );
  for (const level of [1, 2] as const) {
    const file = `${name}-${level - 1}.vhd`;
    const image = vhd({
      kind: 'differencing',
      content: disks[level],
      id: Buffer.alloc(16, level + 1),
      blockSize,
      holds: holds[level - 1]!,
      order: mixed,
      parent: {
        id: Buffer.alloc(16, level),
        relative: `.\\${file}`,
        absolute: `D:\\elsewhere\\${file}`,
        name: file,
      },
    });
    write(`${name}-${level}.vhd`, image.bytes);
  }
  return join(dir, `${name}-2.vhd`);
}

t.test('a differencing disk is read over the parent that it was made on', async t => {
  const third = noise(3, base.length);
  const few = (sector: number) => sector > 200 && sector % 5 === 0;
  const { bytes, bad, depth, findings } = whole(chainOf('small', [base, over, third], [some, few], 16_384));
  t.same(bad, []);
  t.equal(depth, 3);
  t.ok(bytes.equals(overlaid(overlaid(base, over, some), third, few)));
  t.same(
    findings.filter(({ severity }) => severity !== 'note'),
    [],
  );
});

t.test('as libvhdi reads it', { skip: missing(['vhdimount', 'fusermount3'], ['root', 'fuse']) }, async t => {
  // Blocks of 2 MiB and whole bytes of bitmaps: libvhdi 20210425 goes wrong over others.
  const size = 5 * 2 ** 20 + 4096;
  const disks = [content(1, size), noise(2, size), noise(3, size)] as const;
  const bytewise = (holds: (byte: number) => boolean) => (sector: number) => holds(Math.floor(sector / 8));
  const holds = [bytewise(byte => byte % 3 === 0), bytewise(byte => byte > 20 && byte % 5 === 0)] as const;
  const top = chainOf('large', disks, holds, 2 ** 21);
  const at = join(dir, 'mounted');
  mkdirSync(at);
  execFileSync('vhdimount', [top, at], { stdio: 'pipe', timeout: 60_000 });
  t.teardown(() => spawnSync('fusermount3', ['-u', '-z', at]));
  t.ok(readFileSync(join(at, 'vhdi3')).equals(whole(top).bytes), 'the bytes are the same');
});

t.test('a parent of another identity is refused, and passed over where another is found', async t => {
  const child = vhd({
    kind: 'differencing',
    content: over,
    holds: some,
    parent: { id, absolute: 'C:\\x\\basis.vhd' },
  });
  const path = write('orphan.vhd', child.bytes);
  t.match(code(path), /^PARENT_MISSING/);
  write('basis.vhd', vhd({ kind: 'fixed', content: noise(9, base.length) }).bytes);
  t.match(code(path), /^PARENT_MISMATCH: .*00112233-4455-6677-8899-aabbccddeeff/);
  const other = join(dir, 'other');
  mkdirSync(other);
  writeFileSync(join(other, 'basis.vhd'), vhd({ kind: 'fixed', content: base, id }).bytes);
  t.ok(whole(path, [other]).bytes.equals(overlaid(base, over, some)));
  write('basis.vhd', base);
  t.match(code(path), /^IMAGE_CORRUPT/, 'a raw disk of the name is none either');
});

t.test('the time of the parent is noted where nothing has it', async t => {
  const parent = { id, relative: 'clock.vhd', time: 600_000_000 };
  write('clock.vhd', vhd({ kind: 'fixed', content: base, id }).bytes);
  const path = write('late.vhd', vhd({ kind: 'differencing', content: over, holds: some, parent }).bytes);
  const told = whole(path).findings.filter(({ kind }) => kind === 'chain');
  t.match(told, [{ severity: 'note', what: /2019-01-05T10:40:00/ }]);
  const right = vhd({
    kind: 'differencing',
    content: over,
    holds: some,
    parent: { ...parent, time: 700_000_000 },
  });
  t.same(
    whole(write('intime.vhd', right.bytes)).findings.filter(({ kind }) => kind === 'chain'),
    [],
  );
});

t.test('a damaged footer is replaced by its copy, and this is said', async t => {
  const { bytes } = vhd({ kind: 'dynamic', content: base });
  bytes[bytes.length - 500]! ^= 1;
  const one = whole(write('footer.vhd', bytes));
  t.ok(one.bytes.equals(base));
  t.match(one.member.troubles, [/its copy in the first sector was used/]);
  t.match(one.findings, [{ severity: 'defect', kind: 'image' }]);
  bytes[10]! ^= 1;
  t.match(code(write('both.vhd', bytes)), /^IMAGE_CORRUPT/);
  bytes[bytes.length - 500]! ^= 1;
  const other = whole(write('copy.vhd', bytes));
  t.ok(other.bytes.equals(base));
  t.match(other.member.troubles, [/the copy of the footer/]);
});

t.test('a fixed disk without its footer is not taken for raw', async t => {
  const { bytes } = vhd({ kind: 'fixed', content: base });
  const path = write('cut.vhd', bytes.subarray(0, base.length));
  t.match(code(path), /^IMAGE_CORRUPT/);
  openChain(path, { format: 'raw' }).close();
  const old = write('old.vhd', bytes.subarray(0, base.length + 511));
  t.ok(whole(old).bytes.equals(base), 'a footer of 511 bytes is one');
  t.match(
    code(write('less.vhd', Buffer.concat([bytes.subarray(0, 9999 * 8), bytes.subarray(base.length)]))),
    /^IMAGE_CORRUPT/,
  );
});

t.test('a qcow2 stands on a VHD', async t => {
  write('under.vhd', vhd({ kind: 'dynamic', content: base, order: mixed }).bytes);
  const path = join(dir, 'mixed.qcow2');
  const options = 'backing_file=under.vhd,backing_fmt=vpc,cluster_size=4k';
  qemuImg('create', '-q', '-u', '-f', 'qcow2', '-o', options, path, String(base.length));
  const { bytes, bad } = whole(path);
  t.same(bad, []);
  t.ok(bytes.equals(base));
});

t.test('tables that lie', async t => {
  const { bytes, tables } = vhd({ kind: 'dynamic', content: base });
  const [at] = tables[2]!;
  const entry = (index: number, value: number) => {
    const changed = Buffer.from(bytes);
    changed.writeUInt32BE(value, at + index * 4);
    return look(write('lie.vhd', changed));
  };
  const reasons = (seen: ReturnType<typeof look>) =>
    typeof seen === 'string' ? seen : [...seen.reasons].join();
  t.match(reasons(entry(0, bytes.readUInt32BE(at + 4))), /where another block lies/);
  t.match(reasons(entry(0, bytes.readUInt32BE(at + 4) + 3)), /where another block lies/);
  t.match(reasons(entry(0, 0)), /within the copy of the footer/);
  t.match(reasons(entry(0, 1)), /within the dynamic header/);
  t.match(reasons(entry(0, 3)), /within the block table/);
  t.match(reasons(entry(0, 0xfffffffe)), /beyond the end/);
});
