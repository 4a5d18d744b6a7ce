/**
 * Readers that share nothing with us or with each other read the same bytes: The Sleuth Kit, libvmdk, xmount. What libewf,
 * libvhdi and QEMU read is compared where their formats are.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openChain } from '../../src/image/chain.js';
import { points } from '../../src/image/points.js';
import { vhd } from '../fixtures/vhd.js';
import { missing } from '../peers.js';
import { acquire } from './acquire.js';
import { folder, noise, qemuImg } from './peer.js';
import { readAll } from './reader.js';
import { content } from './subjects.js';

t.setTimeout(240_000);
const KIB = 1024;
const BYTES = Buffer.concat([
  noise(1, 700 * KIB),
  Buffer.alloc(400 * KIB),
  Buffer.from(noise(2, 300 * KIB).toString('hex'), 'latin1'),
  noise(3, 128 * KIB),
]);

function ours(path: string): Buffer {
  const chain = openChain(path);
  try {
    const { bytes, bad } = readAll(points(chain)[0]!.open());
    if (bad.length > 0) throw new Error(`${path} is bad`);
    return bytes;
  } finally {
    chain.close();
  }
}

function run(program: string, ...args: string[]): Buffer {
  const { stdout, stderr, status } = spawnSync(program, args, { maxBuffer: 2 ** 28, timeout: 60_000 });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** What `name` holds in the mount that `mount` makes. */
function mounted(t: Parameters<typeof folder>[0], mount: (at: string) => void, name: string): Buffer {
  const at = join(folder(t), 'mnt');
  mkdirSync(at);
  mount(at);
  try {
    return readFileSync(join(at, name));
  } finally {
    spawnSync('fusermount3', ['-u', '-z', at]);
  }
}

function vmdk(dir: string, subformat: string): string {
  const raw = join(dir, 'source.raw');
  writeFileSync(raw, BYTES);
  const path = join(dir, `${subformat}.vmdk`);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, path);
  return path;
}

const VMDKS = ['monolithicSparse', 'twoGbMaxExtentSparse', 'streamOptimized', 'monolithicFlat'];

t.test('The Sleuth Kit', { skip: missing(['img_cat', 'ewfacquirestream']) }, async t => {
  const dir = folder(t);
  for (const subformat of VMDKS) {
    const path = vmdk(dir, subformat);
    t.ok(ours(path).equals(BYTES), subformat);
    t.ok(run('img_cat', '-i', 'vmdk', path).equals(BYTES), `${subformat}, and img_cat`);
  }
  for (const kind of ['fixed', 'dynamic'] as const) {
    const path = join(dir, `${kind}.vhd`);
    const wanted = content(3);
    writeFileSync(path, vhd({ kind, content: wanted }).bytes);
    t.ok(ours(path).equals(wanted), `VHD ${kind}`);
    t.ok(run('img_cat', '-i', 'vhd', path).equals(wanted), `VHD ${kind}, and img_cat`);
  }
  const segments = acquire(join(dir, 'e'), BYTES, ['-f', 'encase6', '-c', 'fast', '-S', String(2 ** 20)]);
  t.ok(ours(segments[0]!).equals(BYTES), `E01 in ${segments.length} segments`);
  t.ok(run('img_cat', '-i', 'ewf', ...segments).equals(BYTES), 'and img_cat');
});

const FUSE = ['root', 'fuse'] as const;

t.test('libvmdk', { skip: missing(['vmdkmount', 'fusermount3'], FUSE) }, async t => {
  const dir = folder(t);
  // It knows no flat ones.
  for (const subformat of VMDKS.filter(name => !name.endsWith('Flat'))) {
    const path = vmdk(dir, subformat);
    const theirs = mounted(t, at => run('vmdkmount', path, at), 'vmdk1');
    t.ok(theirs.equals(BYTES), `${subformat}, by vmdkmount`);
    t.ok(ours(path).equals(theirs), subformat);
  }
});

t.test('xmount', { skip: missing(['xmount', 'fusermount3', 'ewfacquirestream'], FUSE) }, async t => {
  const dir = folder(t);
  const segments = acquire(join(dir, 'e'), BYTES, ['-f', 'encase6', '-c', 'best', '-S', String(2 ** 20)]);
  const theirs = mounted(t, at => run('xmount', '--in', 'ewf', ...segments, '--out', 'raw', at), 'e.dd');
  t.ok(theirs.equals(BYTES), 'E01, by xmount');
  t.ok(ours(segments[0]!).equals(theirs), 'E01');
  const parts = [1, 2, 3].map(i => join(dir, `raw.00${i}`));
  for (const [i, path] of parts.entries())
    writeFileSync(path, BYTES.subarray(i * 800_000, (i + 1) * 800_000));
  const split = mounted(t, at => run('xmount', '--in', 'raw', ...parts, '--out', 'raw', at), 'raw.dd');
  t.ok(split.equals(BYTES), 'split raw, by xmount');
  t.ok(ours(parts[0]!).equals(split), 'split raw');
});
