/**
 * Images in hundreds of segments open where a process may have few open files: Node raises the soft limit to the hard one, and
 * each segment takes two descriptors. Where that is not enough, an error says what to do, and no byte is wrong.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { segmentName } from '../../src/image/ewf-segment.js';
import { behind, DONE, group, NEXT, packed, volume, writeSegment } from '../fixtures/ewf.js';
import { ex01 } from '../fixtures/ewf2.js';
import { missing } from '../peers.js';
import { folder, noise } from './peer.js';

t.setTimeout(240_000);
const skip = missing(['prlimit']);
const MAIN = new URL('../../../bin/asof', import.meta.url).pathname;
const CHUNK = 8192;

function e01(dir: string, count: number): { first: string; bytes: Buffer } {
  const chunk = (i: number) => noise((i % 250) + 1, CHUNK);
  for (let i = 0; i < count; i++) {
    const about = volume(count, 16, count * 16);
    const head = [i === 0 ? about : { ...about, type: 'data' }];
    const body = group(behind(head), [{ bytes: packed(chunk(i)), packed: true }]);
    const sections = [...head, ...body, i + 1 < count ? NEXT : DONE];
    writeSegment(join(dir, segmentName('image.E01', i + 1)!), i + 1, sections);
  }
  return {
    first: join(dir, 'image.E01'),
    bytes: Buffer.concat(Array.from({ length: count }, (_, i) => chunk(i))),
  };
}

function ex01s(dir: string, count: number): { first: string; bytes: Buffer } {
  const bytes = noise(9, count * 4096);
  const files = ex01({ content: bytes, method: 'zlib', perSegment: 1, perTable: 1 });
  for (const [name, part] of files) writeFileSync(join(dir, name), part);
  return { first: join(dir, [...files.keys()][0]!), bytes };
}

function split(dir: string, count: number): { first: string; bytes: Buffer } {
  const bytes = noise(8, count * 1024);
  const name = (i: number) => join(dir, `image.${String(i + 1).padStart(3, '0')}`);
  for (let i = 0; i < count; i++) writeFileSync(name(i), bytes.subarray(i * 1024, (i + 1) * 1024));
  return { first: name(0), bytes };
}

function read(first: string, length: number, limit: string) {
  const command = [process.execPath, MAIN, 'read', first, '--length', String(length)];
  return spawnSync('prlimit', [`--nofile=${limit}`, ...command], { maxBuffer: 2 ** 26 });
}

const sum = (all: Buffer) => createHash('sha256').update(all).digest('hex');

for (const [name, make, count] of [
  ['E01', e01, 200],
  ['Ex01', ex01s, 200],
  ['split raw', split, 500],
] as const) {
  t.test(`${name} in ${count} segments`, { skip }, async t => {
    const { first, bytes } = make(folder(t), count);
    const few = read(first, bytes.length, '256:4096');
    t.equal(sum(few.stdout), sum(bytes), `a soft limit of 256: ${few.stderr.toString()}`);
    const hard = read(first, bytes.length, String(count * 2 + 64));
    t.equal(sum(hard.stdout), sum(bytes), `two descriptors a segment: ${hard.stderr.toString()}`);
    const less = read(first, bytes.length, '128');
    t.not(less.status, 0);
    t.match(less.stderr.toString(), /too many open files.*ulimit -n/s, 'and less is an error in words');
    t.ok(bytes.subarray(0, less.stdout.length).equals(less.stdout));
  });
}
