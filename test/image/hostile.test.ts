/**
 * Images that claim much and hold little: sparse files whose tables could keep a walk busy for hours or fill memory.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import t from 'tap';
import { compileRegion } from '../../src/block/region.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { folder } from './peer.js';

const dir = folder(t);

interface Claims {
  readonly size: number;
  readonly l1Entries: number;
  readonly clusterBits?: number;
  readonly l1Offset?: number;
  readonly snapshots?: readonly Buffer[];
  /** Name of a base of the format qcow2. */
  readonly base?: string;
  readonly extension?: { readonly type: number; readonly bytes: Buffer };
}

const SNAPSHOTS = 2 ** 20;

/** A qcow2 image of version 3 that says so, with `parts` at their places, in a file of `length` bytes. */
function image(name: string, claims: Claims, length: number, parts: Readonly<Record<number, Buffer>> = {}) {
  const { clusterBits = 9, snapshots = [], base = '', extension } = claims;
  const header = Buffer.alloc(512);
  header.write('QFI\xfb', 0, 'latin1');
  header.writeUInt32BE(3, 4);
  header.writeBigUInt64BE(base === '' ? 0n : 400n, 8);
  header.writeUInt32BE(base.length, 16);
  header.write(base, 400);
  header.writeUInt32BE(clusterBits, 20);
  header.writeBigUInt64BE(BigInt(claims.size), 24);
  header.writeUInt32BE(claims.l1Entries, 36);
  header.writeBigUInt64BE(BigInt(claims.l1Offset ?? 2 ** 21), 40);
  header.writeUInt32BE(snapshots.length, 60);
  header.writeBigUInt64BE(BigInt(snapshots.length === 0 ? 0 : SNAPSHOTS), 64);
  header.writeUInt32BE(4, 96);
  header.writeUInt32BE(104, 100);
  const { type, bytes } = extension ?? { type: 0xe2792aca, bytes: Buffer.from('qcow2') };
  header.writeUInt32BE(type, 104);
  header.writeUInt32BE(bytes.length, 108);
  bytes.copy(header, 112);
  const path = join(dir, name);
  const fd = openSync(path, 'w');
  writeSync(fd, header, 0, header.length, 0);
  const table = Buffer.concat(snapshots);
  writeSync(fd, table, 0, table.length, SNAPSHOTS);
  for (const [at, part] of Object.entries(parts)) writeSync(fd, part, 0, part.length, Number(at));
  ftruncateSync(fd, length);
  closeSync(fd);
  return path;
}

function snapshot(id: number, l1Offset: number, l1Entries: number, size: number): Buffer {
  const text = Buffer.from(String(id));
  const entry = Buffer.alloc(Math.ceil((56 + text.length) / 8) * 8);
  entry.writeBigUInt64BE(BigInt(l1Offset), 0);
  entry.writeUInt32BE(l1Entries, 8);
  entry.writeUInt16BE(text.length, 12);
  entry.writeUInt32BE(16, 36);
  entry.writeBigUInt64BE(BigInt(size), 48);
  text.copy(entry, 56);
  return entry;
}

function findings(path: string) {
  const chain = openChain(path);
  try {
    return [...check(chain)];
  } finally {
    chain.close();
  }
}

const GIVEN_UP = 'refcounts are not checked: the tables have more entries than are looked at';

// L1 tables of snapshots that overlap in a sparse file were counted cluster by cluster, each time: 2000 of them kept
// `asof check` busy for hours.
t.test('L1 tables that overlap are counted up to a budget', async t => {
  const length = 2 ** 31;
  const entries = (length - 2 ** 22) / 8 - 2 ** 14;
  const snapshots = Array.from({ length: 100 }, (_, i) => snapshot(i, 2 ** 22 + i * 512, entries - i, 512));
  const found = findings(image('l1.qcow2', { size: 512, l1Entries: 1, snapshots }, length));
  t.ok(found.some(({ severity, what }) => severity === 'note' && what === GIVEN_UP));
});

// Bitmaps could name one table of 4 billion entries any number of times, and the count went on when it had been
// given up.
t.test('bitmap tables that overlap are counted up to a budget', async t => {
  const length = 2 ** 31;
  const entry = Buffer.alloc(32);
  entry.writeBigUInt64BE(BigInt(2 ** 22), 0);
  entry.writeUInt32BE((length - 2 ** 22) / 8, 8);
  entry.writeUInt16BE(4, 18);
  entry.write('name', 24);
  const directory = Buffer.concat(Array.from({ length: 2000 }, () => entry));
  const bytes = Buffer.alloc(24);
  bytes.writeUInt32BE(2000, 0);
  bytes.writeBigUInt64BE(BigInt(directory.length), 8);
  bytes.writeBigUInt64BE(BigInt(2 ** 20), 16);
  const extension = { type: 0x23852875, bytes };
  const found = findings(
    image('bitmaps.qcow2', { size: 512, l1Entries: 1, extension }, length, { [2 ** 20]: directory }),
  );
  t.ok(found.some(({ severity, what }) => severity === 'note' && what === GIVEN_UP));
});

// One L2 table that stands in for all of them made a disk of 2^53 bytes with 2^32 runs out of a file of 14 MiB, and
// `asof check` walked them, for each snapshot again.
t.test('the runs of a state are walked as far as its file has room for entries', async t => {
  const cluster = 2 ** 21;
  const tables = 2 ** 14;
  const l1 = Buffer.alloc(tables * 8);
  for (let i = 0; i < tables; i++) l1.writeBigUInt64BE((1n << 63n) | BigInt(4 * cluster), i * 8);
  const l2 = Buffer.alloc(cluster);
  for (let i = 0; i < cluster / 8; i++)
    l2.writeBigUInt64BE((1n << 63n) | BigInt((6 - (i % 2)) * cluster), i * 8);
  const claims = { size: 2 ** 53 - 1, l1Entries: tables, l1Offset: 2 * cluster, clusterBits: 21 };
  const path = image('runs.qcow2', claims, 7 * cluster, { [2 * cluster]: l1, [4 * cluster]: l2 });
  const found = findings(path);
  t.ok(found.some(({ kind, what }) => kind === 'range' && /more runs than are looked at/.test(what)));
});

// An L1 table of 2^32 entries in a hole of a sparse file kept each first read of a region waiting for half a minute,
// and in a chain of such images for hours.
t.test('an L1 table longer than any program writes is not walked', async t => {
  const entries = 2 ** 32 - 1;
  const path = image('sparse.qcow2', { size: entries * 32768, l1Entries: entries }, 2 ** 35 + 2 ** 22);
  const chain = openChain(path);
  t.teardown(() => chain.close());
  const [run, ...more] = points(chain)[0]!
    .open()
    .extents(2 ** 40, 2 ** 40);
  t.match(run, { kind: 'bad', length: 2 ** 40, why: /more entries than QEMU takes/ });
  t.same(more, []);

  const old = Buffer.alloc(48);
  old.write('QFI\xfb\0\0\0\x01', 0, 'latin1');
  old.writeBigUInt64BE(BigInt(2 ** 50), 24);
  old[32] = 9;
  old[33] = 6;
  old.writeBigUInt64BE(48n, 40);
  const fd = openSync(join(dir, 'old.qcow'), 'w');
  writeSync(fd, old);
  closeSync(fd);
  t.throws(() => openChain(join(dir, 'old.qcow')), { code: 'IMAGE_UNSUPPORTED' });
});

// What lies at an L1 table beyond the end of the file was asked for entry by entry: seconds for each read.
t.test('an L1 table beyond the end of the file is one run', async t => {
  const l1Entries = 2 ** 22;
  const chain = openChain(image('gone.qcow2', { size: l1Entries * 32768, l1Entries }, 2 ** 21));
  t.teardown(() => chain.close());
  const source = points(chain)[0]!.open();
  const region = compileRegion(source, 0, () => 0);
  t.same([...region.rows.subarray(0, 2)], [3, source.size]);
  t.same(region.reasons, ['the L1 table lies beyond the end of the file']);
});

// An L1 entry that claims an unshared table at byte 0 read as zeros, where the same claim of an L2 entry was an error.
t.test('an L1 entry that claims byte 0 is bad', async t => {
  const l1 = Buffer.alloc(16);
  l1.writeBigUInt64BE(1n << 63n, 0);
  const path = image('nowhere.qcow2', { size: 65536, l1Entries: 2 }, 2 ** 21 + 512, { [2 ** 21]: l1 });
  const chain = openChain(path);
  t.teardown(() => chain.close());
  const runs = [...points(chain)[0]!.open().extents(0, 65536)];
  t.match(runs, [
    { kind: 'bad', length: 32768, why: 'the L1 entry claims a table at byte 0' },
    { kind: 'zero', length: 32768 },
  ]);
});

// Two members of 65536 snapshots each ended in "Maximum call stack size exceeded"; a chain of a thousand would have
// filled the memory.
t.test('the snapshots of a chain are limited together', async t => {
  const many = Array.from({ length: 32769 }, (_, i) => snapshot(i, 2 ** 21, 1, 512));
  const claims = { size: 512, l1Entries: 1, l1Offset: 2 ** 23, snapshots: many };
  const base = image('base.qcow2', claims, 2 ** 24);
  const top = image('top.qcow2', { ...claims, base: basename(base) }, 2 ** 24);
  const chain = openChain(base);
  t.equal(points(chain).length, 32770);
  chain.close();
  t.throws(() => openChain(top), { code: 'IMAGE_UNSUPPORTED', message: /65538/ });
});
