/**
 * Every kind of VMDK: those that the peer writes give the bytes that went in; those that only ESX and VirtualBox write are
 * made from the specification, and read by the peer, too, where it can.
 */
import {
  copyFileSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import t, { type Test } from 'tap';
import { Disk } from '../../src/block/disk.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { Engine } from '../../src/native.js';
import { conformance } from '../block/conformance.js';
import { cowd, descriptor, type SesparseGrain, sesparse } from '../fixtures/vmdk.js';
import { convert, folder, noise, qemuImg, qemuIo } from './peer.js';
import { readAll } from './reader.js';

const KIB = 1024;
/** The last grain is not whole, and the second table is not full. */
const BYTES = Buffer.concat([
  noise(1, 700 * KIB),
  Buffer.alloc(400 * KIB),
  Buffer.from(noise(2, 300 * KIB).toString('hex'), 'latin1'),
  Buffer.alloc(3 * KIB * KIB),
  noise(3, 77 * 512),
]);
const SECTORS = BYTES.length / 512;

const engine = new Engine({ cacheBytes: 2 ** 24, mapBytes: 2 ** 24, threads: 2 });
t.teardown(() => engine.close());

function open(t: Test, path: string) {
  const chain = openChain(path);
  t.teardown(() => chain.close());
  return chain;
}

function read(t: Test, path: string) {
  return readAll(points(open(t, path))[0]!.open());
}

function write(dir: string, subformat: string, name = `${subformat}.vmdk`): string {
  const raw = join(dir, 'source.raw');
  writeFileSync(raw, BYTES);
  const path = join(dir, name);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, path);
  return path;
}

for (const subformat of [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
]) {
  t.test(subformat, async t => {
    const dir = folder(t);
    const path = write(dir, subformat);
    const chain = open(t, path);
    t.equal(chain.members[0]!.format, 'vmdk');
    t.equal(chain.members[0]!.features[0], `type=${subformat}`);
    t.same([...check(chain)], []);
    const { bytes, bad } = read(t, path);
    t.same(bad, []);
    t.ok(bytes.equals(BYTES));
    const disk = new Disk(engine, points(chain)[0]!.open());
    t.ok((await disk.read(0, disk.size)).equals(BYTES), 'and the engine reads them');
    disk.close();
    await conformance(t, subformat, () => points(chain)[0]!.open(), BYTES);
  });
}

t.test('a renamed file that holds its own descriptor', async t => {
  const dir = folder(t);
  const path = write(dir, 'monolithicSparse');
  renameSync(path, join(dir, 'other.vmdk'));
  t.ok(read(t, join(dir, 'other.vmdk')).bytes.equals(BYTES));
});

t.test('zeros that are written', async t => {
  const dir = folder(t);
  const base = write(dir, 'monolithicSparse', 'base.vmdk');
  const top = join(dir, 'top.vmdk');
  qemuImg('create', '-q', '-f', 'vmdk', '-o', 'zeroed_grain=on', '-b', base, '-F', 'vmdk', top);
  qemuIo(top, ['write -z 0 128k', 'write -P 3 200k 3k'], '-f', 'vmdk');
  const { bytes, bad } = read(t, top);
  t.same(bad, []);
  t.ok(bytes.equals(convert(top, { format: 'vmdk' })));
  t.ok(bytes.subarray(0, 128 * KIB).every(byte => byte === 0));
});

t.test('delta links, and the content that they stand on', async t => {
  const dir = folder(t);
  write(dir, 'twoGbMaxExtentSparse', 'base.vmdk');
  let below = 'base.vmdk';
  for (const [i, name] of ['one.vmdk', 'two.vmdk', 'three.vmdk'].entries()) {
    const path = join(dir, name);
    qemuImg('create', '-q', '-f', 'vmdk', '-b', join(dir, below), '-F', 'vmdk', path);
    qemuIo(path, [`write -P ${i + 1} ${i * 90}k 100k`], '-f', 'vmdk');
    below = name;
  }
  const path = join(dir, 'three.vmdk');
  const chain = open(t, path);
  t.equal(chain.members.length, 4);
  for (const [i, point] of points(chain).entries()) {
    const { bytes, bad } = readAll(point.open());
    t.same(bad, []);
    t.ok(bytes.equals(convert(chain.members[i]!.file.path, { format: 'vmdk' })), point.id);
  }

  const base = join(dir, 'base.vmdk');
  const text = readFileSync(base, 'latin1');
  writeFileSync(base, text.replace(/^CID=\w+/m, 'CID=12345678'), 'latin1');
  t.throws(() => openChain(path), { code: 'PARENT_MISMATCH', message: /content has the ID 12345678/ });
  const other = folder(t);
  writeFileSync(join(other, 'base.vmdk'), text, 'latin1');
  copyFileSync(join(dir, 'base-s001.vmdk'), join(other, 'base-s001.vmdk'));
  const found = openChain(path, { search: [other] });
  t.equal(found.members.length, 4, 'the right one in another folder is found');
  found.close();
  rmSync(base);
  t.throws(() => openChain(path), { code: 'PARENT_MISSING' });
});

t.test('VirtualBox links by UUID alone', async t => {
  const dir = folder(t);
  const raw = (name: string, bytes: Buffer) => writeFileSync(join(dir, name), bytes);
  const flat = { sectors: SECTORS, type: 'FLAT', name: 'a-flat.vmdk', offset: 0 };
  const uuid = '11111111-2222-3333-4444-555555555555';
  const state = '66666666-2222-3333-4444-555555555555';
  raw('a-flat.vmdk', BYTES);
  const ddb = { 'ddb.uuid.image': uuid, 'ddb.uuid.modification': state };
  const base = descriptor({ cid: '11111111', lines: [flat], ddb });
  writeFileSync(join(dir, 'a.vmdk'), base);
  const grain = noise(9, 512 * 8);
  raw('b.cow', cowd(SECTORS, 8, new Map([[3, grain]])));
  const link = { 'ddb.uuid.parent': uuid, 'ddb.uuid.parentmodification': state };
  const lines = [{ sectors: SECTORS, type: 'VMFSSPARSE', name: 'b.cow' }];
  writeFileSync(join(dir, 'b.vmdk'), descriptor({ cid: '22222222', lines, ddb: link }));
  const wanted = Buffer.from(BYTES);
  grain.copy(wanted, 3 * 4096);
  t.ok(read(t, join(dir, 'b.vmdk')).bytes.equals(wanted));
  writeFileSync(join(dir, 'a.vmdk'), base.replace(state, state.replace('6666', '7777')));
  t.throws(() => openChain(join(dir, 'b.vmdk')), { code: 'PARENT_MISMATCH', message: /changed since/ });
  rmSync(join(dir, 'a.vmdk'));
  t.throws(() => openChain(join(dir, 'b.vmdk')), { code: 'PARENT_MISSING' });
});

t.test('ESX: thin, and a delta over a flat disk; the peer agrees', async t => {
  const dir = folder(t);
  for (const grain of [1, 16, 128]) {
    const size = grain * 512;
    const grains = new Map<number, Buffer>();
    for (const number of [0, 1, 7, 40]) {
      if ((number + 1) * grain <= SECTORS) grains.set(number, noise(number + 1, size));
    }
    writeFileSync(join(dir, 'thin-delta.vmdk'), cowd(SECTORS, grain, grains));
    const lines = [{ sectors: SECTORS, type: 'VMFSSPARSE', name: 'thin-delta.vmdk' }];
    const thin = join(dir, 'thin.vmdk');
    writeFileSync(thin, descriptor({ cid: 'aaaa0001', type: 'vmfsSparse', lines }));
    const alone = read(t, thin);
    t.same(alone.bad, []);
    const wanted = Buffer.alloc(BYTES.length);
    for (const [number, data] of grains) data.copy(wanted, number * size);
    t.ok(alone.bytes.equals(wanted), `grains of ${grain}`);
    t.ok(alone.bytes.equals(convert(thin, { format: 'vmdk' })));

    writeFileSync(join(dir, 'base-flat.vmdk'), BYTES);
    const flat = [{ sectors: SECTORS, type: 'VMFS', name: 'base-flat.vmdk' }];
    writeFileSync(join(dir, 'base.vmdk'), descriptor({ cid: 'aaaa0002', type: 'vmfs', lines: flat }));
    const delta = { cid: 'aaaa0003', parentCid: 'aaaa0002', parent: 'base.vmdk', type: 'vmfsSparse', lines };
    writeFileSync(thin, descriptor(delta));
    const over = Buffer.from(BYTES);
    for (const [number, data] of grains) data.copy(over, number * size);
    t.ok(read(t, thin).bytes.equals(over));
    writeFileSync(thin, descriptor({ ...delta, parentCid: 'aaaa0009' }));
    t.throws(() => openChain(thin), { code: 'PARENT_MISMATCH' });
  }
  t.throws(() => openChain(join(dir, 'thin-delta.vmdk')), {
    code: 'IMAGE_UNSUPPORTED',
    message: /no whole one/,
  });
});

t.test('ESX: SESparse, and a delta over a flat disk; the peer agrees', async t => {
  const dir = folder(t);
  const name = 'snapshot-sesparse.vmdk';
  // Two tables, of which the second is not full, and a hole of a third without any.
  const sectors = 3 * 32768 + 8 * 5 + 3;
  const grains = new Map<number, SesparseGrain>();
  for (const number of [0, 1, 7, 4095, 4096, 8192 + 4096, 8192 + 4096 + 5])
    grains.set(number, noise((number % 250) + 1, 4096));
  grains.set(9, 'zero').set(10, 'unmapped').set(4097, 'unmapped');
  // Places beyond 4096 need the high part of an entry as well.
  const { bytes } = sesparse({ sectors, grains, order: n => (n % 2 === 0 ? 5 - n / 2 : 4098 + n) });
  const wanted = Buffer.alloc(sectors * 512);
  for (const [number, data] of grains) if (typeof data !== 'string') data.copy(wanted, number * 4096);
  const path = join(dir, 'snapshot.vmdk');
  const lines = [{ sectors, type: 'SESPARSE', name }];
  writeFileSync(join(dir, name), bytes);
  writeFileSync(path, descriptor({ cid: 'aaaa0001', type: 'seSparse', lines }));
  const chain = open(t, path);
  t.same([...check(chain)], []);
  const alone = read(t, path);
  t.same(alone.bad, []);
  t.ok(alone.bytes.equals(wanted), 'what went in');
  t.ok(alone.bytes.equals(convert(path, { format: 'vmdk' })), 'what the peer reads');
  const disk = new Disk(engine, points(chain)[0]!.open());
  t.ok((await disk.read(0, disk.size)).equals(wanted), 'and the engine');
  disk.close();

  const below = noise(77, sectors * 512);
  writeFileSync(join(dir, 'base-flat.vmdk'), below);
  const flat = [{ sectors, type: 'VMFS', name: 'base-flat.vmdk' }];
  writeFileSync(join(dir, 'base.vmdk'), descriptor({ cid: 'aaaa0002', type: 'vmfs', lines: flat }));
  const delta = { cid: 'aaaa0003', parentCid: 'aaaa0002', parent: 'base.vmdk', type: 'seSparse', lines };
  writeFileSync(path, descriptor(delta));
  const over = Buffer.from(below);
  for (const [number, data] of grains)
    (typeof data === 'string' ? Buffer.alloc(4096) : data).copy(over, number * 4096);
  t.ok(read(t, path).bytes.equals(over), 'a delta');
  t.ok(convert(path, { format: 'vmdk' }).equals(over), 'as the peer reads it');
  writeFileSync(path, descriptor({ ...delta, parentCid: 'aaaa0009' }));
  t.throws(() => openChain(path), { code: 'PARENT_MISMATCH' });
  t.throws(() => openChain(join(dir, name)), { code: 'IMAGE_UNSUPPORTED', message: /no whole one/ });

  writeFileSync(join(dir, name), sesparse({ sectors, grains, journal: true }).bytes);
  writeFileSync(path, descriptor({ cid: '1', type: 'seSparse', lines }));
  t.throws(() => openChain(path), { code: 'IMAGE_UNSUPPORTED', message: /journal/ });
});

t.test('extents of every kind, one behind the other', async t => {
  const dir = folder(t);
  const a = write(dir, 'monolithicSparse', 'a.vmdk');
  writeFileSync(join(dir, 'b.raw'), Buffer.concat([noise(5, 1024), noise(6, 2048)]));
  const lines = [
    { sectors: SECTORS, type: 'SPARSE', name: basename(a) },
    { sectors: 5, type: 'ZERO', name: '' },
    { sectors: 4, type: 'FLAT', name: 'b.raw', offset: 2 },
    { sectors: 3, type: 'FLAT', name: 'b.raw', access: 'NOACCESS', offset: 0 },
  ];
  const path = join(dir, 'all.vmdk');
  writeFileSync(path, descriptor({ cid: '1', lines }));
  const { bytes, bad } = read(t, path);
  const end = SECTORS * 512 + 9 * 512;
  t.same(bad, [{ offset: end, length: 3 * 512 }]);
  t.ok(bytes.subarray(0, end).equals(Buffer.concat([BYTES, Buffer.alloc(5 * 512), noise(6, 2048)])));
  truncateSync(join(dir, 'b.raw'), 2048);
  t.same(
    read(t, path).bad,
    [{ offset: end - 1024, length: 1024 + 3 * 512 }],
    'a flat extent that is cut off',
  );
});

t.test('extents outside the allowed folders', async t => {
  const dir = folder(t);
  const other = folder(t);
  writeFileSync(join(other, 'secret'), BYTES);
  const path = join(dir, 'disk.vmdk');
  for (const name of [join(other, 'secret'), `../${basename(other)}/secret`, 'nbd:host:1']) {
    writeFileSync(path, descriptor({ cid: '1', lines: [{ sectors: 8, type: 'FLAT', name, offset: 0 }] }));
    t.throws(() => openChain(path), { code: /PARENT_(MISSING|FORBIDDEN)/ }, name);
  }
  symlinkSync(join(other, 'secret'), join(dir, 'link'));
  writeFileSync(
    path,
    descriptor({ cid: '1', lines: [{ sectors: 8, type: 'FLAT', name: 'link', offset: 0 }] }),
  );
  t.throws(() => openChain(path), { code: 'PARENT_FORBIDDEN' });
  openChain(path, { search: [other] }).close();
});

t.test('what is refused', async t => {
  const dir = folder(t);
  const path = join(dir, 'x.vmdk');
  const refused = (text: string, code: string, message: RegExp) => {
    writeFileSync(path, text);
    t.throws(() => openChain(path), { code, message });
  };
  const line = (type: string, sectors = 8) =>
    descriptor({ cid: '1', lines: [{ sectors, type, name: 'y', offset: 0 }] });
  refused(line('VMFSRDM'), 'IMAGE_UNSUPPORTED', /no file/);
  refused(line('FLAT', 2 ** 60), 'IMAGE_CORRUPT', /2\^53/);
  refused(descriptor({ cid: '1', lines: [] }), 'IMAGE_CORRUPT', /no extents/);
  refused(descriptor({ cid: 'x', lines: [] }), 'IMAGE_CORRUPT', /CID/);
  refused(`${line('FLAT')}\nRX 8 FLAT "y" 0\n`, 'IMAGE_CORRUPT', /nothing known/);
  refused(
    descriptor({ cid: '1', parentCid: '2', lines: [{ sectors: 8, type: 'ZERO', name: '' }] }),
    'IMAGE_CORRUPT',
    /no name/,
  );
});
