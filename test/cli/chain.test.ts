/** Each command on a real chain; qemu-img says what is right. */
import {
  copyFileSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import t from 'tap';
import type { ImageInfo, PointInfo } from '../../src/service.js';
import { asof, asofJson, makeChain, peer, SIZE } from './asof.js';

interface Run {
  readonly start: number;
  readonly length: number;
  readonly kind: string;
  readonly member?: string;
  readonly offset?: number;
}

const K = 1024;
const M = 1024 * K;
// All of it, on a machine that has much else to do.
t.setTimeout(1_200_000);

const folder = t.testdir();
const { a, b } = await makeChain(folder);
const raw = `${folder}/truth.raw`;

async function truth(image: string, snapshot?: string): Promise<Buffer> {
  const chosen = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
  await peer('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', ...chosen, image, raw);
  return readFileSync(raw);
}

t.test('info', async t => {
  const info = await asofJson<ImageInfo>('info', b);
  t.equal(info.path, b);
  t.equal(info.size, SIZE);
  t.same(
    info.members.map(({ path, format, size, parent }) => ({ path, format, size, parent })),
    [
      { path: b, format: 'qcow2', size: SIZE, parent: 'a.qcow2' },
      { path: a, format: 'qcow2', size: SIZE, parent: null },
    ],
  );
  for (const { path, fileSize, modified } of info.members) {
    t.equal(fileSize, statSync(path).size);
    t.equal(modified, statSync(path).mtime.toISOString());
  }
  const { stdout, status } = await asof('info', b);
  t.equal(status, 0);
  for (const part of [b, a, 'qcow2', `${SIZE} (8 MiB)`]) t.match(stdout.toString(), part);
});

t.test('points', async t => {
  const points = await asofJson<PointInfo[]>('points', b);
  t.same(
    points.map(({ id, name, kind, size }) => ({ id, name, kind, size })),
    [
      { id: 'b.qcow2', name: 'b.qcow2', kind: 'image', size: SIZE },
      { id: 'a.qcow2', name: 'a.qcow2', kind: 'image', size: SIZE },
      { id: 'a.qcow2#1', name: 'before', kind: 'snapshot', size: SIZE },
    ],
  );
  const told = JSON.parse(await peer('qemu-img', 'info', '--output=json', a)) as {
    snapshots: { 'date-sec': number }[];
  };
  t.equal(Math.floor(Date.parse(points[2]!.time) / 1000), told.snapshots[0]!['date-sec']);
  t.equal(new Set(points.map(({ moment }) => moment)).size, 3, 'every moment is its own');
  const { stdout } = await asof('points', b);
  const lines = stdout.toString().trimEnd().split('\n');
  t.equal(lines.length, 4);
  t.match(lines[3], /^a\.qcow2#1 +before +snapshot +\S+Z +8389120 +8 MiB$/);
});

t.test('map', async t => {
  for (const image of [a, b]) {
    const runs = await asofJson<Run[]>('map', image);
    t.same(simplified(runs), await qemuMap(image), image);
    const { stdout } = await asof('map', image);
    t.equal(stdout.toString().trimEnd().split('\n').length, runs.length + 1, 'a line a run');
  }
  const part = await asofJson<Run[]>('map', b, '--offset', '100K', '--length', '0x10000');
  t.same(
    part.map(({ start, length }) => [start, length]),
    [
      [100 * K, 28 * K],
      [128 * K, 36 * K],
    ],
  );
});

/** Runs as both say them: packed ones without their place, which qemu-img does not tell. */
function simplified(runs: readonly Run[]): unknown[] {
  const all: { start: number; length: number; kind: string; member: string; offset: number }[] = [];
  for (const { start, length, kind, member = '', offset = 0 } of runs) {
    const plain = kind === 'data';
    const run = { start, length, kind, member: kind === 'zero' ? '' : member, offset: plain ? offset : 0 };
    const last = all.at(-1);
    const follows =
      last?.kind === kind && last.member === run.member && (!plain || last.offset + last.length === offset);
    if (last && follows) last.length += length;
    else all.push(run);
  }
  return all;
}

async function qemuMap(image: string): Promise<unknown[]> {
  const text = await peer('qemu-img', 'map', '--output=json', image);
  const members = image === b ? [b, a] : [a];
  const runs = (
    JSON.parse(text) as {
      start: number;
      length: number;
      depth: number;
      data: boolean;
      zero: boolean;
      offset?: number;
    }[]
  ).map(({ start, length, depth, data, zero, offset }): Run => {
    if (zero || !data) return { start, length, kind: 'zero' };
    const member = members[depth]!;
    return offset === undefined
      ? { start, length, kind: 'packed', member }
      : { start, length, kind: 'data', member, offset };
  });
  return simplified(runs);
}

t.test('read', async t => {
  const disks = [
    { point: 'b.qcow2', bytes: await truth(b) },
    { point: 'a.qcow2', bytes: await truth(a) },
    { point: 'before', bytes: await truth(a, 'before') },
  ];
  for (const { point, bytes } of disks) {
    const { status, stdout, stderr } = await asof('read', b, '--point', point);
    t.equal(status, 0, stderr);
    t.ok(stdout.equals(bytes), `${point}, whole`);
  }
  const { bytes } = disks[0]!;
  for (const [offset, length] of [
    [0, 0],
    [0, 1],
    [64 * K - 1, 130 * K + 3],
    [2 * M + 10, 100],
    [SIZE - 513, 513],
    [SIZE, 0],
  ] as const) {
    const range = ['--offset', String(offset), '--length', String(length)];
    const { stdout } = await asof('read', b, ...range);
    t.ok(stdout.equals(bytes.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
    const json = await asofJson<{ point: string; offset: number; data: string; length: number }>(
      'read',
      b,
      ...range,
    );
    t.same([json.point, json.offset, json.length], ['b.qcow2', offset, length]);
    t.ok(Buffer.from(json.data, 'base64').equals(stdout));
  }
});

t.test('compare', async t => {
  const compared = (one: string, other: string) => asofJson<Run[]>('compare', b, one, other);
  t.same(await compared('before', 'a.qcow2'), [
    { start: 128 * K, length: 64 * K, kind: 'different' },
    { start: M, length: 64 * K, kind: 'different' },
    { start: 2 * M, length: 64 * K, kind: 'different' },
  ]);
  t.same(await compared('a.qcow2', 'b.qcow2'), [
    { start: 3 * M, length: 64 * K, kind: 'different' },
    { start: SIZE - 512, length: 512, kind: 'different' },
  ]);
  t.same(await compared('b.qcow2', 'b.qcow2'), []);
  const { status, stdout } = await asof('compare', b, 'a.qcow2', 'b.qcow2');
  t.equal(status, 0);
  t.match(stdout.toString(), /^ +START +LENGTH +KIND\n *3145728 +65536 +different\n/);
});

t.test('check: a sound chain', async t => {
  for (const deep of [[], ['--deep']]) {
    const { status, stdout, stderr } = await asof('check', b, ...deep);
    t.equal(status, 0, stderr);
    t.equal(stderr, '', 'no progress in a pipe');
    t.match(stdout.toString(), /2 members.*sound; 0 defects, 0 leaks, 0 notes/);
    t.same(await asofJson('check', b, ...deep), []);
  }
});

t.test('a truncated image', async t => {
  const cut = `${folder}/cut.qcow2`;
  await peer('qemu-img', 'create', '-q', '-f', 'qcow2', cut, '4M');
  await peer('qemu-io', '-c', 'write -P 7 0 1M', cut);
  const runs = await asofJson<Run[]>('map', cut);
  const place = runs.find(({ start }) => start === 0)!;
  t.equal(place.length, M, 'the image is one run, as this test needs it');
  const lost = 15 * 64 * K;
  truncateSync(cut, place.offset! + lost + 1000);

  const read = await asof('read', cut);
  t.equal(read.status, 3);
  t.match(read.stderr, /^asof: ./);
  t.ok(
    read.stdout.length >= lost && read.stdout.length <= lost + 1000,
    `${read.stdout.length} bytes before it`,
  );
  t.ok(read.stdout.equals(Buffer.alloc(read.stdout.length, 7)));
  const json = await asof('read', cut, '--json');
  t.equal(json.status, 3);
  const told = JSON.parse(json.stdout.toString()) as { data: string; length: number };
  t.equal(told.length, read.stdout.length);
  t.ok(Buffer.from(told.data, 'base64').equals(read.stdout));
  t.equal((JSON.parse(json.stderr) as { error: { code: string } }).error.code, 'DAMAGED');

  const map = await asof('map', cut, '--json');
  t.equal(map.status, 3);
  const bad = (JSON.parse(map.stdout.toString()) as Run[]).filter(({ kind }) => kind === 'bad');
  t.equal(bad.length, 1);
  t.equal(read.stdout.length, bad[0]!.start - (bad[0]!.start % 512), 'the map says the same, to the byte');

  const check = await asof('check', cut, '--json');
  t.equal(check.status, 3);
  const findings = JSON.parse(check.stdout.toString()) as { severity: string; range?: { offset: number } }[];
  const found = findings.filter(({ severity }) => severity === 'defect');
  t.ok(
    found.some(({ range }) => range?.offset === bad[0]?.start),
    'and so does the doctor',
  );
});

t.test('a packed block that does not unpack', async t => {
  const packed = `${folder}/packed.qcow2`;
  const source = `${folder}/source.raw`;
  copyFileSync(raw, source);
  await peer('qemu-img', 'convert', '-c', '-f', 'qcow2', '-O', 'qcow2', b, packed);
  const runs = await asofJson<Run[]>('map', packed);
  const run = runs.find(({ kind, start }) => kind === 'packed' && start > 0)!;
  // Seven one-bits are no deflate block (RFC 1951, 3.2.3: type 3 is an error).
  writeSync(openSync(packed, 'r+'), Buffer.alloc(16, 0xff), 0, 16, run.offset);
  t.equal((await asof('check', packed)).status, 0, 'metadata are sound');
  const { status, stdout } = await asof('check', packed, '--deep', '--json');
  t.equal(status, 3);
  const reports = JSON.parse(stdout.toString()) as {
    point: string;
    range: { offset: number; length: number };
  }[];
  t.same(
    reports.map(({ point, range }) => ({ point, range })),
    [{ point: 'packed.qcow2', range: { offset: run.start, length: run.length } }],
  );
});

t.test('a missing parent', async t => {
  const elsewhere = `${folder}/elsewhere`;
  mkdirSync(elsewhere);
  const before = await truth(b);
  renameSync(a, `${elsewhere}/a.qcow2`);
  t.teardown(() => renameSync(`${elsewhere}/a.qcow2`, a));
  for (const command of ['info', 'points', 'map', 'check', 'read']) {
    const { status, stderr } = await asof(command, b, '--json');
    t.equal(status, 2, command);
    const { error } = JSON.parse(stderr) as { error: { code: string; message: string; hint: string } };
    t.equal(error.code, 'PARENT_MISSING');
    t.match(error.message, b, 'who needs it');
    t.match(error.message, '"a.qcow2"', 'what');
    t.match(error.message, `${folder}/a.qcow2`, 'where it was looked for');
    t.match(error.hint, '--search');
  }
  const { status, stdout } = await asof('read', b, '--search', folder, '--search', elsewhere);
  t.equal(status, 0);
  t.ok(stdout.equals(before));
});
