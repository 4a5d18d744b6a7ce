/**
 * The fuzz target of the formats that the peer reads: sound little images, changed by a seeded hand, read by us and by the peer.
 *
 * The rules. We answer each file with points or with an AsofError, never with another exception. Where the peer
 * gives a sector, ours is the same bytes, or bad, or the image is refused. The first sector that the peer cannot
 * read is bad for us, too (behind it the peer may have closed the image, and says nothing more). What lies behind
 * the end of a file is bad although the peer gives zeros: there our `bad` is right and its answer is not.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BlockSource } from '../../src/block/source.js';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { type Point, points } from '../../src/image/points.js';
import { noise, qemuImg, qemuIo } from './peer.js';
import { type Content, readAll } from './reader.js';

const SECTOR = 512;

/** Bytes of the largest disk that is read whole; of larger ones only the map is walked. */
const LARGEST = 16 * 2 ** 20;

/** Runs of a disk's map that are walked. */
const MOST_RUNS = 100_000;

export interface Tally {
  cases: number;
  /** Files that were refused. */
  refused: number;
  /** Points whose bytes were compared with the peer's. */
  compared: number;
  /** Sectors that were the same, and that were bad for us and not for the peer. */
  same: number;
  bad: number;
  /** Breaches of the rules, a sentence each. */
  readonly faults: string[];
}

export const newTally = (): Tally => ({ cases: 0, refused: 0, compared: 0, same: 0, bad: 0, faults: [] });

export interface Sample {
  readonly name: string;
  readonly format: 'qcow2' | 'qcow' | 'vpc' | 'vdi' | 'vhdx' | 'parallels';
  readonly bytes: Buffer;
  /** Places worth hitting: offset and length. */
  readonly targets: readonly (readonly [number, number])[];
}

const SAMPLES: { name: string; options: string; steps: (string[] | string)[] }[] = [
  {
    name: 'v2',
    options: 'compat=0.10,cluster_size=4k',
    steps: [['write -P 1 0 100k', 'write -P 2 200k 9k']],
  },
  {
    name: 'v3',
    options: 'cluster_size=4k',
    steps: [['write -P 1 0 100k', 'write -z 200k 9k', 'write -z -u 50k 4k', 'write -c -P 9 240k 4k']],
  },
  {
    name: 'tiny',
    options: 'cluster_size=512',
    steps: [['write -P 1 0 50k', 'write -c -P 3 100k 512', 'write -z 99k 512']],
  },
  { name: 'large', options: 'cluster_size=64k', steps: [['write -P 1 1k 100k', 'write -c -P 3 192k 64k']] },
  {
    name: 'zstd',
    options: 'cluster_size=4k,compression_type=zstd',
    steps: [['write -c -P 1 0 4k', 'write -c -P 2 4k 4k', 'write -P 3 8k 8k']],
  },
  {
    name: 'extended',
    options: 'cluster_size=16k,extended_l2=on',
    steps: [['write -P 1 512 9k', 'write -z 32k 1k', 'write -P 2 48k 16k', 'write -c -P 3 80k 16k']],
  },
  {
    name: 'overlay',
    options: 'cluster_size=4k,backing_file=base.qcow2,backing_fmt=qcow2',
    steps: [['write -P 1 0 20k', 'write -z 100k 8k', 'write -z -u 60k 8k', 'write -P 2 250k 512']],
  },
  {
    name: 'snapshots',
    options: 'cluster_size=1k',
    steps: [
      ['write -P 1 0 50k'],
      'one',
      ['write -P 2 10k 50k', 'write -c -P 5 200k 1k'],
      'two',
      ['write -P 3 0 5k'],
    ],
  },
];

/** Makes the sound images in `dir`, and the base that one of them needs. */
export function samples(dir: string): Sample[] {
  const pattern = join(dir, 'pattern');
  writeFileSync(pattern, noise(9, 65536));
  const base = join(dir, 'base.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', base, '262656');
  qemuIo(base, [`write -s ${pattern} 0 200k`]);
  const sound = SAMPLES.map(({ name, options, steps }): Sample => {
    const path = join(dir, 'sound.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', options, path, '262656');
    for (const step of steps) {
      if (typeof step === 'string') qemuImg('snapshot', '-c', step, path);
      // Patterns that differ from place to place; those of packed clusters are short, so that they pack.
      else qemuIo(path, withPattern(step, pattern));
    }
    const bytes = readFileSync(path);
    rmSync(path);
    return { name, format: 'qcow2', bytes, targets: targetsOf(bytes) };
  });
  return [...sound, oldSample(dir, pattern), ...blockSamples(dir, pattern)];
}

const withPattern = (step: readonly string[], pattern: string) =>
  step.map(one => (/-c|-z/.test(one) ? one : one.replace(/-P \d+/, `-s ${pattern}`)));

/** An image of version 1. */
function oldSample(dir: string, pattern: string): Sample {
  const path = join(dir, 'sound.qcow');
  qemuImg('create', '-q', '-f', 'qcow', path, '262656');
  const step = ['write -c -P 1 64k 4k', 'write -c -P 2 68k 4k', 'write -P 1 0 50k', 'write -P 2 200k 9k'];
  qemuIo(path, withPattern(step, pattern), '-f', 'qcow');
  const bytes = readFileSync(path);
  rmSync(path);
  const l2 = Number(bytes.readBigUInt64BE(48));
  return {
    name: 'old',
    format: 'qcow',
    bytes,
    targets: [
      [0, 56],
      [48, 8],
      [l2, 512],
      [l2, 128],
    ],
  };
}

/** Images of formats of blocks, and where their headers and tables are. */
const BLOCKS: {
  name: string;
  format: Sample['format'];
  options: string;
  size: number;
  at: [number, number][];
}[] = [
  {
    name: 'vhd',
    format: 'vpc',
    options: 'subformat=dynamic,force_size=on',
    size: 8 * 2 ** 20,
    at: [
      [0, 512],
      [512, 1024],
      [1536, 16],
      [1536, 16],
      [1536, 16],
    ],
  },
  {
    name: 'vdi',
    format: 'vdi',
    options: '',
    size: 8 * 2 ** 20,
    at: [
      [64, 396],
      [336, 128],
      [512, 32],
      [512, 32],
      [512, 32],
    ],
  },
  {
    name: 'parallels',
    format: 'parallels',
    options: 'cluster_size=64k',
    size: 8 * 2 ** 20,
    at: [
      [0, 64],
      [16, 48],
      [64, 512],
      [64, 512],
      [64, 512],
    ],
  },
  {
    name: 'vhdx',
    format: 'vhdx',
    options: 'subformat=dynamic,block_size=1M',
    size: 8 * 2 ** 20,
    at: [
      [65_536, 96],
      [131_072, 96],
      [196_608, 96],
      [2 ** 21, 64],
      [2 ** 21, 64],
      [3 * 2 ** 20, 224],
      [3 * 2 ** 20 + 65_536, 64],
    ],
  },
];

function blockSamples(dir: string, pattern: string): Sample[] {
  return BLOCKS.map(({ name, format, options, size, at }) => {
    const path = join(dir, 'sound.blocks');
    qemuImg('create', '-q', '-f', format, ...(options ? ['-o', options] : []), path, String(size));
    const steps = [
      `write -s ${pattern} 5M 60k`,
      `write -s ${pattern} 0 50k`,
      `write -s ${pattern} 2030k 40k`,
    ];
    qemuIo(path, steps, '-f', format);
    const bytes = readFileSync(path);
    rmSync(path);
    return { name, format, bytes, targets: at };
  });
}

/** Header, extensions, L1, refcounts, snapshots, and the first L2 table of each L1. */
function targetsOf(bytes: Buffer): [number, number][] {
  const u64 = (at: number) => Number(bytes.readBigUInt64BE(at));
  const offset = (at: number) => Number(bytes.readBigUInt64BE(at) & 0x00fffffffffffe00n);
  const cluster = 2 ** bytes.readUInt32BE(20);
  const targets: [number, number][] = [
    [0, 112],
    [0, 112],
    [104, 400],
    [u64(40), bytes.readUInt32BE(36) * 8],
    [offset(u64(48)), 128],
    [u64(48), 32],
  ];
  for (let i = 0; i < Math.min(4, bytes.readUInt32BE(36)); i++) {
    const table = offset(u64(40) + i * 8);
    if (table > 0) targets.push([table, Math.min(cluster, 1024)], [table, 256], [table, 64]);
  }
  if (bytes.readUInt32BE(60) > 0) {
    targets.push([u64(64), 120]);
    targets.push([u64(u64(64)), 64]);
  }
  return targets;
}

/** A generator of numbers below a bound: xorshift, the same for the same seed. */
function dice(seed: number): (bound: number) => number {
  let state = Math.imul(seed, 2654435761) >>> 0 || 1;
  return bound => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % bound;
  };
}

/** Numbers that tables and headers do not like. */
const EDGES = [
  0n,
  1n,
  511n,
  512n,
  0x7fffffffn,
  0xffffffffn,
  1n << 32n,
  1n << 53n,
  1n << 56n,
  (1n << 63n) - 1n,
  (1n << 64n) - 1n,
];

function mutate(sample: Sample, roll: (bound: number) => number): Buffer {
  let bytes: Buffer = Buffer.from(sample.bytes);
  for (let hits = 1 + roll(3); hits > 0; hits--) {
    const [start, length] = sample.targets[roll(sample.targets.length)]!;
    const at = start + roll(Math.max(1, length));
    const word = at - (at % 8);
    switch (roll(9)) {
      case 0:
      case 1:
      case 2:
        if (at < bytes.length) bytes[at]! ^= 1 << roll(8);
        break;
      case 3:
        if (at < bytes.length) bytes[at] = roll(256);
        break;
      case 4:
        if (word + 8 <= bytes.length) bytes.writeBigUInt64BE(EDGES[roll(EDGES.length)]!, word);
        break;
      case 5: {
        // One entry where another stands.
        const [from, size] = sample.targets[roll(sample.targets.length)]!;
        const source = from + roll(Math.max(8, size));
        const entry = source - (source % 8);
        if (entry + 8 <= bytes.length && word < bytes.length) bytes.copy(bytes, word, entry, entry + 8);
        break;
      }
      case 6:
        // A place within the file, cluster-aligned or not.
        if (word + 8 <= bytes.length) {
          const place = roll(bytes.length + 8192);
          bytes.writeBigUInt64BE(
            BigInt(place - (place % [512, 4096, 1][roll(3)]!)) | (BigInt(roll(4)) << 62n),
            word,
          );
        }
        break;
      case 7:
        if (roll(3) === 0) bytes = bytes.subarray(0, roll(bytes.length));
        break;
      default: {
        if (bytes.length === 0) break;
        const to = roll(bytes.length);
        const source = roll(bytes.length);
        bytes.copy(bytes, to, source, Math.min(bytes.length, source + roll(512)));
      }
    }
  }
  return bytes;
}

/** How a point is read; the self-check puts a wrong one here. */
export type Reader = (source: BlockSource) => Content;

/** A changed image of a seed, the samples in turn. */
export function changed(sound: readonly Sample[], seed: number) {
  const sample = sound[seed % sound.length]!;
  return { format: sample.format, bytes: mutate(sample, dice(seed)), label: `${sample.name} seed ${seed}` };
}

/** One file, from bytes to a verdict. */
export function runCase(
  dir: string,
  { format, bytes, label }: { format: Sample['format']; bytes: Buffer; label: string },
  tally: Tally,
  read: Reader = readAll,
): void {
  const path = join(dir, 'case.qcow2');
  writeFileSync(path, bytes);
  tally.cases++;
  const fault = (what: string) => tally.faults.push(`${label}: ${what}`);
  try {
    const chain = openChain(path, { format });
    try {
      let findings = 0;
      for (const _ of check(chain)) if (++findings > MOST_RUNS) break;
      const all = points(chain).filter(point => point.member === path);
      const tags = all.map(({ name }) => name);
      for (const point of all.slice(0, 4)) {
        walk(point.open());
        // The peer finds a snapshot by its tag only; one that is not plain text, or not the only one, it cannot.
        const askable =
          point.kind === 'image' || (/^[a-z]{1,9}$/.test(point.name) && unique(tags, point.name));
        if (askable && point.size <= LARGEST) compare(path, format, point, read(point.open()), tally, fault);
      }
    } finally {
      chain.close();
    }
  } catch (error) {
    if (error instanceof AsofError) tally.refused++;
    else fault(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
}

const unique = (all: readonly string[], one: string) => all.filter(name => name === one).length === 1;

function walk(source: BlockSource): void {
  let runs = 0;
  for (const run of source.extents(0, source.size)) {
    if (!(run.length > 0)) throw new Error(`a run of ${run.length} bytes`);
    if (++runs > MOST_RUNS) return;
  }
}

interface Answer {
  readonly bytes: Buffer;
  /** Byte offset of the first sector that the peer could not read; Infinity where it could read all. */
  readonly firstError: number;
  /** Sectors that it could not read, by number. */
  readonly errors: ReadonlySet<number>;
}

/** What the peer reads, sector by sector; undefined where it refuses the image or takes too long. */
function peerAnswer(path: string, format: string, snapshot: string | undefined): Answer | undefined {
  const raw = `${path}.raw`;
  const which = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
  try {
    const { status, stderr } = spawnSync(
      'qemu-img',
      ['convert', '--salvage', '-f', format, '-O', 'raw', '-m', '1', ...which, path, raw],
      { encoding: 'utf8', timeout: 20_000, maxBuffer: 64 * 2 ** 20 },
    );
    if (status !== 0 || statSync(raw).size > LARGEST) return undefined;
    const errors = new Set<number>();
    for (const [, offset] of stderr.matchAll(/error while reading offset (\d+)/g))
      errors.add(Number(offset) / SECTOR);
    const first = Math.min(...errors, Number.POSITIVE_INFINITY);
    return { bytes: readFileSync(raw), firstError: first * SECTOR, errors };
  } finally {
    rmSync(raw, { force: true });
  }
}

function compare(
  path: string,
  format: string,
  point: Point,
  ours: Content,
  tally: Tally,
  fault: (what: string) => void,
): void {
  const peer = peerAnswer(path, format, point.kind === 'snapshot' ? point.name : undefined);
  if (!peer) return;
  tally.compared++;
  const isBad = new Uint8Array(Math.ceil(point.size / SECTOR));
  for (const { offset, length } of ours.bad) {
    isBad.fill(1, Math.floor(offset / SECTOR), Math.ceil((offset + length) / SECTOR));
  }
  // The peer counts whole sectors only, and gives a snapshot the size of the current state.
  const whole = point.size - (point.size % SECTOR);
  if (point.kind === 'image' && peer.bytes.length !== whole) {
    fault(`${point.id} has ${point.size} bytes, for the peer ${peer.bytes.length}`);
    return;
  }
  for (let sector = 0; sector < Math.min(whole, peer.bytes.length) / SECTOR; sector++) {
    if (isBad[sector]) {
      tally.bad++;
      continue;
    }
    if (peer.errors.has(sector)) {
      if (sector * SECTOR === peer.firstError)
        fault(`${point.id}: the peer cannot read sector ${sector}, we can`);
      continue;
    }
    const at = sector * SECTOR;
    if (ours.bytes.compare(peer.bytes, at, at + SECTOR, at, at + SECTOR) !== 0) {
      fault(`${point.id}: sector ${sector} is not the peer's`);
      return;
    }
    tally.same++;
  }
}
