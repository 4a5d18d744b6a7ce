/**
 * Shadow copies: vshadowmount reads the same bytes out of the same volumes, in whatever format the volume is kept; and what
 * of a store is damaged is an error for all that hangs on it.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';
import { FILES, shadowVolume } from '../fixtures/shadow.js';
import { missing } from '../peers.js';
import { folder, noise, qemuImg } from './peer.js';
import { type Content, readAll } from './reader.js';

t.setTimeout(240_000);
const dir = folder(t);
const BLOCK = 16384;
const skip = missing(['vshadowmount', 'fusermount3'], ['root', 'fuse']);
let serial = 0;

function write(bytes: Buffer): string {
  const path = join(dir, `volume-${++serial}.raw`);
  writeFileSync(path, bytes);
  return path;
}

/** What the points of an image other than its own say, the oldest first. */
function stores(path: string): { name: string; content: Content; troubles: string[] }[] {
  const chain = openChain(path);
  try {
    const troubles = [...check(chain)].map(({ what }) => what);
    return points(chain)
      .filter(({ kind }) => kind === 'shadow copy')
      .map(point => ({ name: point.name, content: readAll(point.open()), troubles }))
      .reverse();
  } finally {
    chain.close();
  }
}

/** The same by the peer; undefined where it refuses. */
function peer(path: string): Buffer[] | undefined {
  const at = `${path}.mounted`;
  mkdirSync(at);
  try {
    const { status } = spawnSync('vshadowmount', [path, at], { stdio: 'pipe', timeout: 60_000 });
    if (status !== 0) return undefined;
    const names = readdirSync(at).sort((a, b) => Number(a.slice(3)) - Number(b.slice(3)));
    return names.map(name => readFileSync(join(at, name)));
  } catch {
    return undefined;
  } finally {
    spawnSync('fusermount3', ['-u', '-z', at]);
  }
}

t.test('as libvshadow reads them', { skip }, async t => {
  for (let seed = 1; seed <= 8; seed++) {
    const shape = { seed, stores: 1 + (seed % 4), descriptors: 40 * seed, shuffled: seed % 2 === 0 };
    const path = write(shadowVolume(shape).bytes);
    const theirs = peer(path);
    const ours = stores(path);
    t.equal(theirs?.length, shape.stores);
    t.same(
      ours.map(({ name }) => name),
      Array.from({ length: shape.stores }, (_, i) => `store${i + 1}`),
    );
    for (const [i, { name, content }] of ours.entries()) {
      t.same(content.bad, [], name);
      t.ok(content.bytes.equals(theirs![i]!), `${name} of volume ${seed}`);
    }
  }
});

t.test('in an image, packed or not', async t => {
  const { bytes } = shadowVolume({ seed: 40, stores: 3, descriptors: 90 });
  const raw = write(bytes);
  const wanted = stores(raw).map(({ content }) => content.bytes);
  t.equal(wanted.length, 3);
  for (const options of [['-c'], ['-c', '-o', 'compression_type=zstd'], ['-o', 'cluster_size=4k']]) {
    const path = join(dir, `image-${++serial}.qcow2`);
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', ...options, raw, path);
    const ours = stores(path);
    t.ok(ours.every(({ content }, i) => content.bytes.equals(wanted[i]!)));
    t.equal(ours.length, 3);
  }
});

t.test('what a shadow copy says of itself', async t => {
  const { bytes, stores: made } = shadowVolume({ seed: 7, stores: 2, descriptors: 10, scoped: true });
  const chain = openChain(write(bytes));
  t.teardown(() => chain.close());
  const [newest, second] = points(chain).filter(({ kind }) => kind === 'shadow copy');
  t.match(newest, { name: 'store2', moment: 'store2', size: bytes.length });
  t.match(second?.shadow, {
    store: 1,
    partition: null,
    scoped: true,
    created: '2012-12-14T23:06:40.0000000Z',
    attributes: ['persistent', 'client-accessible', 'no-auto-release', 'differential', 'autorecover'],
    operatingMachine: 'machine-0',
    serviceMachine: '',
  });
  t.equal(second?.shadow?.storeId.replaceAll('-', '').slice(16), made[0]!.id.slice(16));
});

t.test('in partitions, by number', { skip: missing(['sfdisk', 'qemu-img']) }, async t => {
  const volumes = [
    shadowVolume({ seed: 21, stores: 2, descriptors: 40 }),
    shadowVolume({ seed: 22, stores: 1, descriptors: 40 }),
  ];
  const wanted = volumes.map(({ bytes }) => stores(write(bytes)).map(({ content }) => content.bytes));
  const each = volumes[0]!.bytes.length / 512;
  const tables = {
    gpt: `label: gpt\n3 : start=2048, size=${each}\n7 : start=${2048 + each}, size=${each}\n`,
    dos: `label: dos\n3 : start=2048, size=${each}, type=7\n4 : start=${2048 + each}, size=${each + 4096}, type=f\n5 : start=${2 * 2048 + each}, size=${each}, type=7\n`,
  };
  for (const [label, table] of Object.entries(tables)) {
    const path = join(dir, `disk-${label}.raw`);
    const disk = Buffer.alloc((2 * each + 8192) * 512);
    const second = label === 'gpt' ? 2048 + each : 2 * 2048 + each;
    writeFileSync(path, disk);
    execFileSync('sfdisk', ['-q', path], { input: table, stdio: ['pipe', 'ignore', 'pipe'] });
    const made = readFileSync(path);
    volumes[0]!.bytes.copy(made, 2048 * 512);
    volumes[1]!.bytes.copy(made, second * 512);
    if (label === 'gpt') made.fill(0, 512, 1024); // The second header is as good.
    writeFileSync(path, made);
    const image = join(dir, `disk-${label}.qcow2`);
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', '-c', path, image);
    const last = label === 'gpt' ? 7 : 5;
    const found = stores(image).sort((a, b) => a.name.localeCompare(b.name));
    t.same(
      found.map(({ name }) => name),
      ['p3-store1', 'p3-store2', `p${last}-store1`],
      label,
    );
    const bytes = [...wanted[0]!, ...wanted[1]!];
    for (const [i, { content }] of found.entries()) t.ok(content.bytes.equals(bytes[i]!), `${label} ${i}`);
  }
});

/** Whether what is not bad of the files is what it was; the tables behind them were changed. */
function sound(content: Content, wanted: Buffer): boolean {
  const bytes = Buffer.from(content.bytes);
  for (const { offset, length } of content.bad) wanted.copy(bytes, offset, offset, offset + length);
  return bytes.subarray(0, FILES).equals(wanted.subarray(0, FILES));
}

const isWhole = ({ bad }: Content, size: number) => bad.length === 1 && bad[0]!.length === size;

t.test('a list that cannot be read whole vouches for nothing', async t => {
  const volume = shadowVolume({ seed: 60, stores: 3, descriptors: 1200 });
  const size = volume.bytes.length;
  const wanted = stores(write(volume.bytes)).map(({ content }) => content.bytes);
  const cases: [string, (bytes: Buffer, list: readonly number[]) => void][] = [
    ['its mark', (bytes, list) => bytes.fill(0, list[1]!, list[1]! + 16)],
    ['its type', (bytes, list) => void bytes.writeUInt32LE(6, list[1]! + 20)],
    ['its place', (bytes, list) => void bytes.writeBigUInt64LE(0n, list[1]! + 32)],
    ['a circle', (bytes, list) => void bytes.writeBigUInt64LE(BigInt(list[0]!), list[2]! + 40)],
    ['beyond the end', (bytes, list) => void bytes.writeBigUInt64LE(1n << 40n, list[2]! + 40)],
    ['a block of another volume', (bytes, list) => void bytes.writeBigUInt64LE(1n << 50n, list[0]! + 128)],
    ['a crooked block', (bytes, list) => void bytes.writeBigUInt64LE(77n, list[0]! + 128)],
  ];
  for (const [what, change] of cases) {
    const bytes = Buffer.from(volume.bytes);
    change(bytes, volume.stores[1]!.list);
    const ours = stores(write(bytes));
    t.ok(ours[0]!.content.bad.length > 0, `${what}: the older one goes through it`);
    t.ok(sound(ours[0]!.content, wanted[0]!), `${what}: what the older one has itself is right`);
    t.ok(isWhole(ours[1]!.content, size), `${what}: nothing of it is vouched for`);
    t.same(ours[2]!.content.bad, [], what);
    t.ok(sound(ours[2]!.content, wanted[2]!), `${what}: the newer one does not need it`);
    t.match(ours[0]!.troubles.join('\n'), /store 2 of the shadow copies/, what);
  }
});

t.test('a bitmap that cannot be read is an error where it is asked', async t => {
  const volume = shadowVolume({ seed: 61, stores: 2, descriptors: 60 });
  const wanted = stores(write(volume.bytes)).map(({ content }) => content.bytes);
  const bytes = Buffer.from(volume.bytes);
  bytes.fill(0, volume.stores[1]!.bitmaps[0]!, volume.stores[1]!.bitmaps[0]! + 16);
  const [older, newest] = stores(write(bytes));
  t.same(older!.content.bad, []);
  t.ok(sound(older!.content, wanted[0]!), 'only the newest store asks its bitmap');
  t.ok(newest!.content.bad.length > 0);
  t.ok(sound(newest!.content, wanted[1]!));
});

t.test('a volume that was cut off', async t => {
  const volume = shadowVolume({ seed: 62, stores: 2, descriptors: 200 });
  const wanted = stores(write(volume.bytes)).map(({ content }) => content.bytes);
  const last = Math.max(
    ...volume.stores.flatMap(({ list, bitmaps, header }) => [...list, ...bitmaps, header]),
  );
  const ours = stores(write(volume.bytes.subarray(0, last + BLOCK)));
  t.equal(ours.length, 2);
  for (const [i, { content }] of ours.entries()) {
    t.equal(content.bytes.length, volume.bytes.length, 'it has the size that it had');
    t.ok(content.bad.length > 0 && sound(content, wanted[i]!));
  }
});

t.test('a catalogue that cannot be read hides its stores, not the disk', async t => {
  const volume = shadowVolume({ seed: 63, stores: 2, descriptors: 20 });
  for (const [what, change] of [
    ['no mark', (bytes: Buffer) => bytes.fill(0, volume.catalog[1]!, volume.catalog[1]! + 16)],
    [
      'a circle',
      (bytes: Buffer) => bytes.writeBigUInt64LE(BigInt(volume.catalog[0]!), volume.catalog[1]! + 40),
    ],
    ['an unknown entry', (bytes: Buffer) => bytes.writeBigUInt64LE(9n, volume.catalog[0]! + 128)],
    ['nowhere', (bytes: Buffer) => bytes.writeBigUInt64LE(1n << 44n, 0x1e30)],
  ] as const) {
    const bytes = Buffer.from(volume.bytes);
    change(bytes);
    const chain = openChain(write(bytes));
    try {
      t.equal(points(chain).length, 1, what);
      t.ok(readAll(points(chain)[0]!.open()).bytes.equals(bytes), what);
      t.match([...check(chain)], [{ severity: 'defect', what: /^shadow copies: / }], what);
    } finally {
      chain.close();
    }
  }
});

t.test('damage at random: bytes that the peer reads too, or an error', { skip }, async t => {
  const volume = shadowVolume({ seed: 70, stores: 3, descriptors: 60 });
  const places = [
    ...volume.catalog,
    ...volume.stores.flatMap(({ header, list, bitmaps }) => [header, ...list, ...bitmaps]),
  ];
  const dice = noise(71, 4096);
  let refused = 0;
  for (let round = 0; round < Number(process.env['ASOF_CASES'] ?? 10); round++) {
    const bytes = Buffer.from(volume.bytes);
    const at = places[dice.readUInt16LE(round * 8) % places.length]!;
    const offset = dice.readUInt16LE(round * 8 + 2) % (round % 2 ? 128 : 2048);
    bytes[at + offset]! ^= 1 << (dice[round * 8 + 4]! % 8);
    const path = write(bytes);
    const theirs = peer(path);
    const ours = stores(path);
    if (!theirs || theirs.length !== ours.length) refused++;
    else for (const [i, { content }] of ours.entries()) t.ok(sound(content, theirs[i]!), `round ${round}`);
  }
  t.ok(refused < 8, `${refused} refused`);
});

const sample = new URL('../../../../shared/corpus/vss/vsstest.qcow2.xz', import.meta.url).pathname;
const corpus = existsSync(sample) ? false : `nothing at ${sample}`;

t.test('what Windows 7 made', { skip: corpus || missing(['xz']) }, async t => {
  const path = join(dir, 'vsstest.qcow2');
  writeFileSync(path, execFileSync('xz', ['-dc', sample], { maxBuffer: 2 ** 30 }));
  const chain = openChain(path);
  t.teardown(() => chain.close());
  t.match(
    points(chain).map(({ name, shadow }) => [name, shadow?.storeId]),
    [
      ['vsstest.qcow2', undefined],
      ['store2', '600f0b6d-5bdf-11e3-9d6c-005056c00008'],
      ['store1', '600f0b69-5bdf-11e3-9d6c-005056c00008'],
    ],
  );
});
