/**
 * Little images of every format with all their files, for campaigns of damage (campaign.ts), and what of each cannot be told.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  behind,
  DONE,
  group,
  NEXT,
  packed,
  plain,
  type Section,
  volume,
  writeSegment,
} from '../fixtures/ewf.js';
import { ex01 } from '../fixtures/ewf2.js';
import { withLog } from '../fixtures/vhdx.js';
import { cowd, descriptor, type SesparseGrain, sesparse } from '../fixtures/vmdk.js';
import type { Prey } from './campaign.js';
import type { Files, Target } from './damage-matrix.js';
import { noise, qemuImg, qemuIo } from './peer.js';
import { content, subjects } from './subjects.js';

/** What each was made from, beside it; `dir` is an empty folder. */
export function preys(dir: string): { prey: Prey; wanted: Buffer }[] {
  return [...blocks(dir), ...logs(), ...vmdks(dir), ...e01(dir), ...ex01s(), ...qcow2s(dir), ...raws()];
}

/** VHD, VDI and VHDX, with their parents. */
function blocks(dir: string): { prey: Prey; wanted: Buffer }[] {
  return subjects(dir).map(({ name, path, bytes, content: wanted, tables, untold }) => {
    const first = basename(path);
    const files = new Map([[first, bytes]]);
    const base = `base.${first.split('.')[1]}`;
    if (first.startsWith('child')) files.set(base, readFileSync(join(dirname(path), base)));
    const targets = tables.map(([offset, length]): Target => [first, offset, length]);
    return {
      prey: { name, files, first, targets, ...(untold && { untold: (_, at, bit) => untold(at, bit) }) },
      wanted,
    };
  });
}

/** A log whose last entry tells where blocks are: torn, the disk is as it was before. */
function logs(): { prey: Prey; wanted: Buffer }[] {
  const mib = 2 ** 20;
  const wanted = content(4, mib + 300 * 512);
  const changes = [2 * mib, 2 * mib + 65_536, 3 * mib].map(offset => ({ offset, length: 4096 }));
  return [0, 250].map(logStart => {
    const made = withLog({ content: wanted, logStart }, changes, 3);
    const files: Files = new Map([['dirty.vhdx', made.bytes]]);
    const targets = [...made.logEntries, ...made.logEntries].map(
      ([offset, length]): Target => ['dirty.vhdx', offset, length],
    );
    targets.push(['dirty.vhdx', 65_536, 96], ['dirty.vhdx', 131_072, 96]);
    const also = [Buffer.alloc(wanted.length)];
    return {
      prey: { name: `vhdx, log at ${logStart}`, files, first: 'dirty.vhdx', targets, also },
      wanted,
    };
  });
}

const GRAIN = 65_536;

function vmdks(dir: string): { prey: Prey; wanted: Buffer }[] {
  const wanted = Buffer.concat([noise(1, 6 * GRAIN), Buffer.alloc(4 * GRAIN), noise(3, 2 * GRAIN + 512 * 9)]);
  const sectors = wanted.length / 512;
  const raw = join(dir, 'raw');
  writeFileSync(raw, wanted);
  const made = (subformat: string) => {
    const path = join(dir, 'made.vmdk');
    qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, path);
    const bytes = readFileSync(path);
    rmSync(path);
    return bytes;
  };
  const sparse = made('monolithicSparse');
  const stream = made('streamOptimized');
  const all: { prey: Prey; wanted: Buffer }[] = [];
  const one = (name: string, files: Files, first: string, more: Partial<Prey> & Pick<Prey, 'targets'>) =>
    all.push({ prey: { name: `vmdk ${name}`, files, first, ...more }, wanted });
  one('sparse', new Map([['a.vmdk', sparse]]), 'a.vmdk', { targets: hosted('a.vmdk', sparse) });
  const footer = stream.length - 1024;
  one('stream', new Map([['a.vmdk', stream]]), 'a.vmdk', {
    targets: [
      ['a.vmdk', 0, 79],
      ['a.vmdk', footer, 79],
      ['a.vmdk', place(stream, footer + 56), 4],
      ['a.vmdk', stream.readUInt32LE(place(stream, footer + 56)) * 512, 14 * 4],
    ],
  });

  const text = (type: string, lines: readonly { sectors: number; type: string; name: string }[]) =>
    Buffer.from(
      descriptor({ cid: '1', type, lines: lines.map(line => ({ ...line, offset: 0 })) }).replace(
        /" 0$/gm,
        /FLAT/.test(lines[0]!.type) ? '" 0' : '"',
      ),
    );
  const half = 4 * GRAIN;
  one(
    'flat',
    new Map([
      [
        'set.vmdk',
        text('flat', [
          { sectors: half / 512, type: 'FLAT', name: 'set-f001' },
          { sectors: sectors - half / 512, type: 'FLAT', name: 'set-f002' },
        ]),
      ],
      ['set-f001', wanted.subarray(0, half)],
      ['set-f002', wanted.subarray(half)],
    ]),
    'set.vmdk',
    { targets: [] },
  );
  writeFileSync(raw, wanted.subarray(0, half));
  const left = made('monolithicSparse');
  writeFileSync(raw, wanted.subarray(half));
  const right = made('monolithicSparse');
  one(
    'split sparse',
    new Map([
      [
        'set.vmdk',
        text('split', [
          { sectors: half / 512, type: 'SPARSE', name: 'set-s001.vmdk' },
          { sectors: sectors - half / 512, type: 'SPARSE', name: 'set-s002.vmdk' },
        ]),
      ],
      ['set-s001.vmdk', left],
      ['set-s002.vmdk', right],
    ]),
    'set.vmdk',
    { targets: [...hosted('set-s001.vmdk', left), ...hosted('set-s002.vmdk', right)] },
  );

  const grains = new Map<number, Buffer>();
  for (let i = 0; i * 4096 < wanted.length; i++) {
    const grain = Buffer.alloc(4096);
    wanted.copy(grain, 0, i * 4096);
    if (grain.some(byte => byte !== 0)) grains.set(i, grain);
  }
  const thin = cowd(sectors, 8, grains);
  one(
    'COWD',
    new Map([
      ['set.vmdk', text('vmfsSparse', [{ sectors, type: 'VMFSSPARSE', name: 'set-delta.vmdk' }])],
      ['set-delta.vmdk', thin],
    ]),
    'set.vmdk',
    {
      targets: [
        ['set-delta.vmdk', 0, 20],
        ['set-delta.vmdk', thin.readUInt32LE(4 * 512) * 512, Math.ceil(sectors / 8) * 4],
      ],
      untold: untoldOf(thin, 4, 2),
    },
  );
  const se = new Map<number, SesparseGrain>(grains);
  for (let i = 96; i < 104; i++) se.set(i, i % 2 === 0 ? 'zero' : 'unmapped');
  const { bytes, places } = sesparse({ sectors, grains: se, order: n => (n * 7) % grains.size });
  one(
    'SESparse',
    new Map([
      ['set.vmdk', text('seSparse', [{ sectors, type: 'SESPARSE', name: 'set-sesparse.vmdk' }])],
      ['set-sesparse.vmdk', bytes],
    ]),
    'set.vmdk',
    {
      targets: [
        ['set-sesparse.vmdk', 0, 512],
        ['set-sesparse.vmdk', 512, 512],
        ['set-sesparse.vmdk', places.tables, Math.ceil(sectors / 8) * 8],
        ['set-sesparse.vmdk', places.tables, Math.ceil(sectors / 8) * 8],
      ],
      untold: (_, at, bit) =>
        // An area may begin elsewhere, as far as nothing else lies there; zeros and a discard are one to us.
        (at < 512 && ((at >= 80 && at < 208) || (at >= 512 && at < 544))) ||
        (at >= 512 && at < 536) ||
        (at >= places.tables && at % 8 === 7 && bit >= 4 && bit <= 5),
    },
  );
  all.push(delta(dir));
  return all;
}

const place = (bytes: Buffer, at: number) => Number(bytes.readBigUInt64LE(at)) * 512;

/** The header, and both directories with the first table of each. */
function hosted(name: string, bytes: Buffer): Target[] {
  const tables = [place(bytes, 48), place(bytes, 56)].map(at => [at, bytes.readUInt32LE(at) * 512] as const);
  return [
    [name, 0, 79],
    ...tables.flatMap(([directory, table]): Target[] => [
      [name, directory, 4],
      [name, table, 25 * 4],
      [name, table, 25 * 4],
    ]),
  ];
}

/** Of single tables: an entry that becomes none, or leads to where no grain is. */
function untoldOf(bytes: Buffer, width: number, least: number) {
  return (_: string, at: number, bit: number): boolean => {
    const word = at - (at % width);
    if (word < least * 512) return false;
    const changed = Buffer.from(bytes.subarray(word, word + width));
    changed[at % width]! ^= 1 << bit;
    return changed.readUInt32LE() === 0 || bytes.readUInt32LE(word) === 0;
  };
}

/** A delta link over a sparse disk, by the peer. */
function delta(dir: string): { prey: Prey; wanted: Buffer } {
  const folder = join(dir, 'base.raw');
  const wanted = noise(8, 5 * GRAIN);
  writeFileSync(folder, wanted);
  const base = join(dir, 'base.vmdk');
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', folder, base);
  const top = join(dir, 'top.vmdk');
  qemuImg('create', '-q', '-f', 'vmdk', '-b', base, '-F', 'vmdk', top);
  qemuIo(top, ['write -P 7 64k 64k', 'write -P 8 200k 20k'], '-f', 'vmdk');
  wanted.fill(7, GRAIN, 2 * GRAIN).fill(8, 200 * 1024, 220 * 1024);
  const files = new Map([base, top].map(path => [basename(path), readFileSync(path)]));
  const targets = [...files].flatMap(([name, bytes]) => hosted(name, bytes));
  return { prey: { name: 'vmdk delta', files, first: 'top.vmdk', targets }, wanted };
}

const CHUNK = 8192;

function e01(dir: string): { prey: Prey; wanted: Buffer }[] {
  const count = 5;
  const chunk = (i: number) => (i % 2 === 0 ? noise(i + 1, CHUNK) : Buffer.alloc(CHUNK, `chunk ${i} `));
  const wanted = Buffer.concat(Array.from({ length: count * 4 }, (_, i) => chunk(i)));
  const paths = Array.from({ length: count }, (_, i) => join(dir, `image.E0${i + 1}`));
  for (const [i, path] of paths.entries()) {
    const about = volume(count * 4, 16, count * 64);
    const head: Section[] = [i === 0 ? about : { ...about, type: 'data' }];
    const all = [0, 1, 2, 3].map(n => {
      const bytes = chunk(i * 4 + n);
      return n % 2 === 0 ? { bytes: plain(bytes), packed: false } : { bytes: packed(bytes), packed: true };
    });
    writeSegment(path, i + 1, [...head, ...group(behind(head), all), i + 1 < count ? NEXT : DONE]);
  }
  const files = new Map(paths.map(path => [basename(path), readFileSync(path)]));
  const targets = [...files].map(([name]): Target => [name, 0, 13 + 76]);
  return [{ prey: { name: 'E01', files, first: 'image.E01', targets, checked: true }, wanted }];
}

function ex01s(): { prey: Prey; wanted: Buffer }[] {
  const wanted = Buffer.concat([
    noise(1, 25 * 4096),
    Buffer.from(noise(2, 10 * 4096).toString('hex'), 'latin1'),
    Buffer.alloc(6 * 4096, 'pattern8'),
    noise(3, 4 * 4096 + 1536),
  ]);
  return (['none', 'zlib'] as const).map(method => {
    const files = ex01({ content: wanted, method, perSegment: 20, perTable: 7 });
    const targets = [...files.keys()].map((name): Target => [name, 0, 32]);
    return {
      prey: { name: `Ex01 ${method}`, files, first: [...files.keys()][0]!, targets, checked: true },
      wanted,
    };
  });
}

/** Tables of qcow2 bear no checksum: their bits are the matter of fuzz.ts. Here data, cuts and links. */
function qcow2s(dir: string): { prey: Prey; wanted: Buffer }[] {
  const wanted = noise(6, 40 * 4096 + 1024);
  const source = join(dir, 'qcow2.raw');
  writeFileSync(source, wanted);
  const base = join(dir, 'base.qcow2');
  const top = join(dir, 'top.qcow2');
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=4k', source, base);
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', 'base.qcow2', '-F', 'qcow2', top);
  qemuIo(top, ['write -P 3 8k 10k', 'write -z 64k 8k']);
  wanted.fill(3, 8192, 8192 + 10_240).fill(0, 65_536, 65_536 + 8192);
  const files = new Map([base, top].map(path => [basename(path), readFileSync(path)]));
  const targets: Target[] = [
    ['top.qcow2', 0, 8],
    ['base.qcow2', 0, 8],
  ];
  // A base bears no identity: the overlay in its place is a cycle, and it in the overlay's is another disk.
  return [{ prey: { name: 'qcow2', files, first: 'top.qcow2', targets, alike: () => true }, wanted }];
}

function raws(): { prey: Prey; wanted: Buffer }[] {
  const wanted = noise(7, 100_000);
  const names = ['disk.001', 'disk.002', 'disk.003', 'disk.004', 'disk.005'];
  const files = new Map(names.map((name, i) => [name, wanted.subarray(i * 22_000, (i + 1) * 22_000)]));
  const last = names.at(-1)!;
  return [
    {
      prey: {
        name: 'split raw',
        files,
        first: names[0]!,
        targets: [],
        // Full ones; and one more of these in place of the last.
        alike: (a, b) => a === last || b !== last,
        dispensable: name => name === last,
      },
      wanted,
    },
  ];
}
