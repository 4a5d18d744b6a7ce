/**
 * How long `asof mount` takes until the mount is ready, and how much memory its server has after reads all over a
 * disk of 16 TiB that is a chain of a hundred images.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, open, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { JOBS, measure } from './jobs.js';
import { run, unmountAtEnd } from './process.js';
import { ASOF } from './servers.js';
import { figure, median, table } from './table.js';

const TIB = 2 ** 40;
const DEPTH = 100;

/** Disks of many terabytes in formats with one table of blocks, with data at their far end. */
const LARGE: readonly (readonly [name: string, format: string, size: number, options: string])[] = [
  ['VHD, 2040 GiB', 'vpc', 2040 * 2 ** 30, 'subformat=dynamic,force_size=on'],
  ['VHDX, 64 TiB in blocks of 32 MiB', 'vhdx', 64 * TIB, 'subformat=dynamic,block_size=32M'],
  [
    'VHDX, 60 TiB in blocks of 1 MiB',
    'vhdx',
    60 * TIB,
    'subformat=dynamic,block_size=1M,block_state_zero=off',
  ],
  ['VDI, 8 TiB', 'vdi', 8 * TIB, ''],
  ['VMDK, 60 TiB', 'vmdk', 60 * TIB, 'subformat=monolithicSparse'],
];

/** A Markdown table of milliseconds. `more` are further images, by what they are. */
export async function readiness(
  folder: string,
  runs: number,
  more: Readonly<Record<string, string>>,
  say: (text: string) => void,
): Promise<string> {
  const images: Record<string, string> = { ...more };
  const raw = join(folder, 'sparse.raw');
  await writeFile(raw, '');
  await truncate(raw, 2 ** 31);
  images['raw, 2 GiB, sparse'] = raw;
  for (const tebibytes of [1, 16]) {
    const file = join(folder, `sparse-${tebibytes}.qcow2`);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(tebibytes * TIB)]);
    images[`qcow2, ${tebibytes} TiB, sparse`] = file;
  }
  images[`qcow2, 16 TiB, sparse, chain of ${DEPTH}`] = await sparseChain(folder);
  for (const [name, format, size, options] of LARGE) {
    const file = join(folder, `large-${size / TIB}.${format}`);
    await run('qemu-img', [
      'create',
      '-q',
      '-f',
      format,
      ...(options ? ['-o', options] : []),
      file,
      String(size),
    ]);
    await run('qemu-io', ['-f', format, '-c', `write -q -P 7 ${size - 8192} 8192`, file]);
    images[name] = file;
  }
  const rows: string[][] = [];
  for (const [name, file] of Object.entries(images)) {
    say(`time to ready: ${name}`);
    const times: number[] = [];
    const first: number[] = [];
    for (let i = 0; i < runs; i++) {
      await mounted(folder, file, async (point, milliseconds) => {
        times.push(milliseconds);
        const begin = performance.now();
        await readEnd(join(point, 'disk'));
        first.push(performance.now() - begin);
      });
    }
    rows.push([name, figure(median(times)), figure(Math.max(...times)), figure(median(first))]);
  }
  return table(['image', 'ms, median', 'ms, worst', 'ms, then the last 4 KiB'], rows);
}

/** A Markdown table of MiB, from the server's /proc. */
export async function memory(folder: string, seconds: number, say: (text: string) => void): Promise<string> {
  say(`memory: chain of ${DEPTH} on 16 TiB`);
  const file = await sparseChain(folder);
  return mounted(folder, file, async point => {
    const before = memoryOf(serverOf(point));
    for (const job of JOBS.filter(({ name }) => name.includes('random'))) {
      await measure(job, join(point, 'disk'), seconds);
    }
    const after = memoryOf(serverOf(point));
    return table(
      ['server of a 16 TiB chain of 100, MiB', 'Pss', 'Rss', 'peak Rss'],
      [
        ['ready', ...before.map(figure)],
        ['after random reads all over', ...after.map(figure)],
      ],
    );
  });
}

async function readEnd(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    await file.read(Buffer.alloc(4096), 0, 4096, Math.max(0, size - 4096));
  } finally {
    await file.close();
  }
}

/** Each member has 64 clusters somewhere else. Made once a folder. */
async function sparseChain(folder: string): Promise<string> {
  const name = (level: number) => `sparse-chain-${level}.qcow2`;
  const head = join(folder, name(DEPTH - 1));
  if (readdirSync(folder).includes(name(DEPTH - 1))) return head;
  let state = 1;
  for (let level = 0; level < DEPTH; level++) {
    const base = level === 0 ? [] : ['-b', name(level - 1), '-F', 'qcow2'];
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...base, name(level), String(16 * TIB)], folder);
    const writes = Array.from({ length: 64 }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      const cluster = Math.floor((state / 2 ** 32) * ((16 * TIB) / 65_536));
      return ['-c', `write -q -P ${1 + (level % 255)} ${cluster * 65_536} 65536`];
    });
    await run('qemu-io', ['-f', 'qcow2', ...writes.flat(), name(level)], folder);
  }
  return head;
}

/** Mounts `file` with asof for the length of `use`, which gets the mount and the milliseconds until it was ready. */
async function mounted<T>(
  folder: string,
  file: string,
  use: (point: string, milliseconds: number) => Promise<T>,
): Promise<T> {
  const point = join(folder, 'ready');
  await mkdir(point, { recursive: true });
  const undo = unmountAtEnd(point);
  const begin = performance.now();
  await run(process.execPath, [ASOF, 'mount', file, point]);
  const milliseconds = performance.now() - begin;
  try {
    return await use(point, milliseconds);
  } finally {
    await run(process.execPath, [ASOF, 'umount', point]);
    undo();
    await rm(point, { recursive: true });
  }
}

function serverOf(point: string): string {
  const pid = readdirSync('/proc').find(name => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0').includes(point);
    } catch {
      return false; // It has ended.
    }
  });
  if (!pid) throw new Error(`no process serves ${point}`);
  return pid;
}

/** Pss, Rss and peak Rss, MiB. */
function memoryOf(pid: string): number[] {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kib = (text: string, key: string) =>
    Number(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN);
  return [kib(rollup, 'Pss'), kib(rollup, 'Rss'), kib(status, 'VmHWM')].map(value => value / 1024);
}
