/**
 * Images of other formats that claim much and hold little: lengths, counts and places at their edges, chains that lead in
 * circles, streams that unpack without end. Each is refused or read, in bounded memory, and comes to an end.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import t, { type Test } from 'tap';
import {
  behind,
  checked,
  DONE,
  group,
  plain,
  type Section,
  table,
  volume,
  writeSegment,
} from '../fixtures/ewf.js';
import { ex01 } from '../fixtures/ewf2.js';
import { vhdx } from '../fixtures/vhdx.js';
import { cowd, descriptor, sesparse } from '../fixtures/vmdk.js';
import { folder, noise } from './peer.js';
import { content } from './subjects.js';

t.setTimeout(240_000);
const OPEN = new URL('./hostile-open.js', import.meta.url).pathname;
const KIB = 1024;
const MIB = 2 ** 20;

/** KiB that a hostile image may cost beside what the program itself does. */
const MOST = 400 * KIB;

/** What came of it: the code it was refused with, or `read`. */
function outcome(t: Test, path: string, name: string): string {
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, [OPEN, path], {
    encoding: 'utf8',
    timeout: 200_000,
  });
  if (signal || status !== 0) {
    t.fail(`${name}: ${signal ?? stderr}`);
    return '';
  }
  const { outcome, grown } = JSON.parse(stdout) as { outcome: string; grown: number };
  t.ok(grown <= MOST, `${name}: ${grown} KiB, ${outcome.slice(0, 120)}`);
  return outcome;
}

function sparseFile(path: string, length: number, parts: Readonly<Record<number, Buffer>>): void {
  const fd = openSync(path, 'w');
  for (const [at, part] of Object.entries(parts)) writeSync(fd, part, 0, part.length, Number(at));
  ftruncateSync(fd, length);
  closeSync(fd);
}

/** Edges that 32-bit fields of a header or a table do not like. */
const EDGES = [0, 0x7fff_ffff, 0xffff_ffff];

t.test('E01', async t => {
  const dir = folder(t);
  const path = join(dir, 'image.E01');
  const chunk = noise(1, 8192);
  const write = (sections: readonly Section[]) => writeSegment(path, 1, sections);
  const sound = () => {
    const head = [volume(1, 16, 16)];
    return [...head, ...group(behind(head), [{ bytes: plain(chunk), packed: false }])];
  };
  write([...sound(), DONE]);
  t.equal(outcome(t, path, 'sound'), 'read');

  const bomb = deflateSync(Buffer.alloc(256 * MIB), { level: 1 });
  write([{ type: 'header', data: bomb }, { type: 'header2', data: bomb }, ...sound().slice(0, 1), DONE]);
  outcome(t, path, 'a header that unpacks to 256 MiB');
  const head = [volume(1, 16, 16)];
  write([...head, ...group(behind(head), [{ bytes: bomb, packed: true }]), DONE]);
  outcome(t, path, 'a chunk that unpacks to 256 MiB');

  for (const edge of EDGES) {
    const wide = table('table', [0]);
    wide.data.writeUInt32LE(edge, 0);
    checked(wide.data.subarray(0, 20)).copy(wide.data, 0);
    write([volume(edge, 64, edge * 64), wide, DONE]);
    outcome(t, path, `${edge} chunks and entries`);
    write([volume(1, edge, 16), ...sound().slice(1), DONE]);
    outcome(t, path, `${edge} sectors a chunk`);
  }
  // A circle of two sections, and a thousand segments' worth of sections of nothing.
  write([...sound(), DONE]);
  const fd = openSync(path, 'r+');
  const back = Buffer.alloc(72);
  back.write('sectors', 'latin1');
  back.writeBigUInt64LE(13n, 16);
  back.writeBigUInt64LE(76n, 24);
  writeSync(fd, checked(back), 0, 76, behind([volume(1, 16, 16)]));
  closeSync(fd);
  outcome(t, path, 'sections in a circle');
  write([...Array.from({ length: 50_000 }, () => ({ type: 'x', data: Buffer.alloc(0) })), ...sound(), DONE]);
  outcome(t, path, '50000 empty sections');
});

t.test('Ex01', async t => {
  const dir = folder(t);
  const files = ex01({ content: noise(2, 40 * 4096), method: 'zlib', perTable: 11 });
  const [[name, bytes]] = files as unknown as [[string, Buffer]];
  const path = join(dir, name);
  const last = bytes.length - 64;
  for (const field of [8, 16]) {
    for (const edge of [BigInt(last), 1n << 32n, (1n << 64n) - 1n]) {
      for (const at of [last, Number(bytes.readBigUInt64LE(last + 8))]) {
        const changed = Buffer.from(bytes);
        changed.writeBigUInt64LE(edge, at + field);
        writeFileSync(path, changed);
        outcome(t, path, `${edge} at ${field} of the section at ${at}`);
      }
    }
  }
});

t.test('VMDK', async t => {
  const dir = folder(t);
  const path = join(dir, 'disk.vmdk');
  const data = join(dir, 'data.vmdk');
  const name = 'data.vmdk';
  const set = (type: string, sectors: number) =>
    writeFileSync(path, descriptor({ cid: '1', lines: [{ sectors, type, name }] }));

  // A large directory, every entry of which names one table; then as many tables of their own, in holes.
  const tables = 2 ** 20;
  const head = Buffer.alloc(512);
  head.write('KDMV', 'latin1');
  head.writeUInt32LE(1, 4);
  const capacity = tables * 512 * 128;
  for (const [at, value] of [
    [12, capacity],
    [20, 128],
    [56, 128],
    [64, 128],
  ] as const)
    head.writeBigUInt64LE(BigInt(value), at);
  head.writeUInt32LE(512, 44);
  set('SPARSE', capacity);
  const directory = new Uint32Array(tables);
  const first = 128 + (tables * 4) / 512;
  for (const step of [0, 4]) {
    for (let i = 0; i < tables; i++) directory[i] = first + i * step;
    const length = (first + tables * 4) * 512;
    sparseFile(data, length, { 0: head, [128 * 512]: Buffer.from(directory.buffer) });
    outcome(t, path, `${tables} tables, ${step} sectors apart`);
  }

  const thin = cowd(1000, 8, new Map([[3, noise(1, 4096)]]));
  set('VMFSSPARSE', 1000);
  for (const at of [12, 16, 20, 24, 2048]) {
    for (const edge of EDGES) {
      const changed = Buffer.from(thin);
      changed.writeUInt32LE(edge, at);
      writeFileSync(data, changed);
      outcome(t, path, `${edge} at ${at} of COWD`);
    }
  }

  const { bytes, places } = sesparse({ sectors: 1000, grains: new Map([[3, noise(1, 4096)]]) });
  set('SESPARSE', 1000);
  for (const at of [16, 80, 128, 136, 144, 152, 192, 200, places.directory, places.tables]) {
    for (const edge of [(1n << 44n) - 1n, (1n << 64n) - 1n]) {
      const changed = Buffer.from(bytes);
      changed.writeBigUInt64LE(edge, at);
      writeFileSync(data, changed);
      outcome(t, path, `${edge} at ${at} of SESparse`);
    }
  }

  const many = Array.from({ length: 40_000 }, () => ({ sectors: 1, type: 'FLAT', name, offset: 0 }));
  writeFileSync(data, noise(1, 512));
  for (const count of [20_000, 40_000]) {
    writeFileSync(path, descriptor({ cid: '1', lines: many.slice(0, count) }));
    outcome(t, path, `${count} extents`);
  }
});

t.test('logs of VHDX', async t => {
  const path = join(folder(t), 'dirty.vhdx');
  const base = content(1, MIB + 4096);
  for (const length of [2 ** 32, 2 ** 52]) {
    for (const offset of [0, 3 * MIB, 2 ** 40]) {
      writeFileSync(path, vhdx({ content: base, log: [[{ offset, data: length }]] }).bytes);
      outcome(t, path, `zeros of ${length} bytes at ${offset}`);
    }
  }
  const many = Array.from({ length: 120 }, (_, i) => ({ offset: 3 * MIB + i * 4096, data: 4096 * 2 ** 12 }));
  writeFileSync(path, vhdx({ content: base, log: [many, many, many] }).bytes);
  outcome(t, path, 'many that overlap');
});
