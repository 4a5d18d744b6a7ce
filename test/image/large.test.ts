/**
 * Disks of many terabytes open, and their far end is read, in bounded memory and after a bounded look at their tables. (How
 * long that takes is for the benchmark to say: `open and read the far end` in bench/README.md.)
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { behind, DONE, packed, type Section, table, volume, writeSegment } from '../fixtures/ewf.js';
import { descriptor, sesparse } from '../fixtures/vmdk.js';
import { folder, qemuImg, qemuIo } from './peer.js';

t.setTimeout(240_000);
const GIB = 2 ** 30;
const TIB = 2 ** 40;
const MIB = 2 ** 20;

const OPEN = new URL('./large-open.js', import.meta.url).pathname;

interface Cost {
  readonly size: number;
  readonly hex: string;
  readonly read: number;
  readonly grown: number;
}

function open(path: string): Cost {
  const { stdout, stderr, status } = spawnSync(process.execPath, [OPEN, path], { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Cost;
}

/** Images that the peer writes, with data at their far end. `read`: MiB of the file that may be read. */
const PEER: readonly (readonly [
  name: string,
  format: string,
  size: number,
  options: string,
  read: number,
])[] = [
  ['VHD of 2040 GiB', 'vpc', 2040 * GIB, 'subformat=dynamic,force_size=on', 12],
  ['VHDX of 64 TiB in blocks of 32 MiB', 'vhdx', 64 * TIB, 'subformat=dynamic,block_size=32M', 24],
  ['VDI of 8 TiB', 'vdi', 8 * TIB, '', 40],
  ['VMDK of 60 TiB', 'vmdk', 60 * TIB, 'subformat=monolithicSparse', 48],
  ['qcow2 of 64 TiB', 'qcow2', 64 * TIB, 'cluster_size=64k', 8],
];

const MEMORY = 160 * 1024;

for (const [name, format, size, options, most] of PEER) {
  t.test(name, async t => {
    const path = join(folder(t), `disk.${format}`);
    qemuImg('create', '-q', '-f', format, ...(options ? ['-o', options] : []), path, String(size));
    qemuIo(path, [`write -P 0xa5 ${size - 8192} 8192`], '-f', format);
    const cost = open(path);
    t.equal(cost.size, size);
    t.equal(cost.hex, 'a5'.repeat(4096));
    t.ok(cost.read <= most * MIB, `${cost.read} bytes read`);
    t.ok(cost.grown <= MEMORY, `${cost.grown} KiB`);
  });
}

// Half a gigabyte of table. The peer fills it with blocks of zeros; Hyper-V, and the peer where asked, with holes.
for (const [zeros, most] of [
  ['on', 520],
  ['off', 16],
] as const) {
  t.test(`VHDX of 60 TiB in blocks of 1 MiB, blocks of zeros ${zeros}`, async t => {
    const path = join(folder(t), 'disk.vhdx');
    const size = 60 * TIB;
    const options = `subformat=dynamic,block_size=1M,block_state_zero=${zeros}`;
    qemuImg('create', '-q', '-f', 'vhdx', '-o', options, path, String(size));
    qemuIo(path, [`write -P 0xa5 ${size - 8192} 8192`], '-f', 'vhdx');
    const cost = open(path);
    t.equal(cost.hex, 'a5'.repeat(4096));
    t.ok(cost.read <= most * MIB, `${cost.read} bytes read`);
    t.ok(cost.grown <= MEMORY, `${cost.grown} KiB`);
  });
}

t.test('SESparse of 62 TiB', async t => {
  const dir = folder(t);
  const sectors = (62 * TIB) / 512;
  // A small one tells where things are in the first MiB; the areas are as long as the disk wants.
  const { bytes } = sesparse({ sectors: 8, grains: new Map() });
  const tables = Math.ceil(sectors / 32768);
  const room = (length: number) => Math.ceil(length / 2048) * 2048;
  const areas = [room(Math.ceil(tables / 64)), room(tables * 64), 2048, 2048, sectors];
  let at = 4096;
  for (const [i, length] of areas.entries()) {
    bytes.writeBigUInt64LE(BigInt(at), 128 + i * 16);
    bytes.writeBigUInt64LE(BigInt(length), 136 + i * 16);
    at += length;
  }
  bytes.writeBigUInt64LE(BigInt(sectors), 16);
  const [directory, first, , , grains] = areas.map(
    (_, i) => Number(bytes.readBigUInt64LE(128 + i * 16)) * 512,
  );
  const fd = openSync(join(dir, 'disk-sesparse.vmdk'), 'w');
  const word = (value: bigint, place: number) => {
    const entry = Buffer.alloc(8);
    entry.writeBigUInt64LE(value);
    writeSync(fd, entry, 0, 8, place);
  };
  writeSync(fd, bytes, 0, MIB, 0);
  word((1n << 60n) | 7n, directory! + (tables - 1) * 8);
  word((3n << 60n) | (5n << 48n), first! + 7 * 32768 + ((sectors / 8 - 1) % 4096) * 8);
  writeSync(fd, Buffer.alloc(4096, 0xa5), 0, 4096, grains! + 5 * 4096);
  ftruncateSync(fd, grains! + 6 * 4096);
  closeSync(fd);
  const lines = [{ sectors, type: 'SESPARSE', name: 'disk-sesparse.vmdk' }];
  const path = join(dir, 'disk.vmdk');
  writeFileSync(path, descriptor({ cid: '1', type: 'seSparse', lines }));
  const cost = open(path);
  t.equal(cost.size, sectors * 512);
  t.equal(cost.hex, 'a5'.repeat(4096));
  t.ok(cost.read <= 16 * MIB, `${cost.read} bytes read`);
  t.ok(cost.grown <= MEMORY, `${cost.grown} KiB`);
});

// 64 million chunks of 32 KiB: a quarter of a gigabyte of tables, twice.
t.test('E01 of 2 TiB', async t => {
  const path = join(folder(t), 'disk.E01');
  const chunks = 2 ** 26;
  const each = 2 ** 16;
  const head = [volume(chunks, 64, chunks * 64)];
  const zeros = packed(Buffer.alloc(32_768));
  const end = packed(Buffer.alloc(32_768, 0xa5));
  const start = behind(head) + 76;
  const sections: Section[] = [...head, { type: 'sectors', data: Buffer.concat([zeros, end]) }];
  const full = Array.from({ length: each }, () => start + 2 ** 31);
  const both = (entries: readonly number[]) => [table('table', entries), table('table2', entries)];
  const [same, last] = [both(full), both([...full.slice(0, -1), start + zeros.length + 2 ** 31])];
  for (let i = 1; i < chunks / each; i++) sections.push(...same);
  writeSegment(path, 1, [...sections, ...last, DONE]);
  const cost = open(path);
  t.equal(cost.size, 2 * TIB);
  t.equal(cost.hex, 'a5'.repeat(4096));
  t.ok(cost.read <= 16 * MIB, `${cost.read} bytes read`);
  t.ok(cost.grown <= MEMORY, `${cost.grown} KiB`);
  rmSync(path);
});
