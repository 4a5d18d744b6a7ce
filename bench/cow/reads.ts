/**
 * Reads of a snapshot (nothing copied; every other chunk copied) against a raw mount of the same bytes and against QEMU's
 * snapshot-access. Every measurement gets a fresh mount or a fresh snapshot, so that no page cache above is filled.
 *
 * The raw mount is there twice: as segments, which the session itself reads as it reads a snapshot, and as one file, which
 * the kernel passes through as root; a snapshot cannot be passed through, as its bytes move while it is read.
 */
import { copyFileSync, mkdirSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { isMounted, run, temporaryFolder, unmountAtEnd, untilMounted } from '../process.js';
import { ASOF } from '../servers.js';
import { figure, median, table } from '../table.js';
import { type Aim, worst } from './aims.js';
import { Daemon } from './daemon.js';
import { CHUNK, type Load, measure, type Target } from './load.js';
import { fleece } from './qemu.js';

export interface ReadsPlan {
  readonly size: number;
  readonly runs: number;
  readonly seconds: number;
  readonly peers: readonly string[];
}

const MIB = 2 ** 20;
const LOADS: readonly (Omit<Load, 'size' | 'seconds'> & { name: string; once?: boolean })[] = [
  { name: '1 MiB sequential buffered, MB/s', rw: 'read', block: MIB, jobs: 1, direct: false, once: true },
  { name: '1 MiB sequential direct, MB/s', rw: 'read', block: MIB, jobs: 1, direct: true },
  { name: '4 KiB random direct, 1 job, k/s', rw: 'randread', block: 4096, jobs: 1, direct: true },
  { name: '4 KiB random direct, 4 jobs, k/s', rw: 'randread', block: 4096, jobs: 4, direct: true },
  { name: '64 KiB random direct, 4 jobs, k/s', rw: 'randread', block: CHUNK, jobs: 4, direct: true },
];

interface Reader {
  readonly name: string;
  /** Shows the disk for the length of `use`. */
  with<T>(use: (disk: string) => Promise<T>): Promise<T>;
}

export async function reads(
  plan: ReadsPlan,
  parent: string,
  content: string,
  say: (text: string) => void,
): Promise<{ table: string; aims: Aim[] }> {
  const folder = temporaryFolder(parent, 'reads');
  const daemon = await Daemon.start(folder);
  const rates = new Map<string, number[]>();
  try {
    const readers = await readersOf(plan, folder, content, daemon);
    for (let round = 0; round < plan.runs; round++) {
      for (const { name, once, ...load } of LOADS) {
        say(`snapshot reads: ${name}, run ${round + 1} of ${plan.runs}`);
        for (let i = 0; i < readers.length; i++) {
          const reader = readers[(i + round) % readers.length]!;
          const seconds = once ? undefined : plan.seconds;
          const { mbps, kiops } = await reader.with(file =>
            measure({ file }, { ...load, size: plan.size, seconds }),
          );
          const key = `${name}/${reader.name}`;
          rates.set(key, [...(rates.get(key) ?? []), name.endsWith('MB/s') ? mbps : kiops]);
        }
      }
    }
    const rate = (name: string, reader: string) => median(rates.get(`${name}/${reader}`) ?? [Number.NaN]);
    const names = readers.map(({ name }) => name);
    const rows = LOADS.map(({ name }) => [
      name,
      ...names.map(reader => {
        const value = rate(name, reader);
        return reader === FRESH ? figure(value) : `${figure(value)} (${figure(rate(name, FRESH) / value)}×)`;
      }),
    ]);
    const cases = (reader: string) =>
      LOADS.map(({ name }) => ({ value: rate(name, reader) / rate(name, SEGMENTS), where: name }));
    return {
      table: table(['reads', ...names], rows),
      aims: [
        {
          aim: "snapshot reads, nothing copied: rate to a raw mount's (read by the session)",
          ...worst(cases(FRESH), 'least'),
          unit: '×',
          limit: 0.9,
          at: 'least',
        },
        {
          aim: "snapshot reads, half of it copied: rate to a raw mount's (read by the session)",
          ...worst(cases(HALF), 'least'),
          unit: '×',
          limit: 0.9,
          at: 'least',
        },
      ],
    };
  } finally {
    await daemon.stop();
  }
}

const FRESH = 'asof, nothing copied';
const HALF = 'asof, half copied';
const SEGMENTS = 'raw mount, by the session';

async function readersOf(
  plan: ReadsPlan,
  folder: string,
  content: string,
  daemon: Daemon,
): Promise<Reader[]> {
  const { size } = plan;
  const origin = join(folder, 'origin');
  copyFileSync(content, origin);
  await daemon.add({ name: 'disk', origin, store: join(folder, 'store'), durability: 'process' });
  const overwrite = (target: Target) =>
    measure(target, { rw: 'write', block: CHUNK, jobs: 1, direct: true, size, alternate: true });
  const snapshot = (name: string, half: boolean): Reader => ({
    name,
    async with(use) {
      const [taken] = await daemon.snapshot('disk');
      const { copies } = await daemon.counters('disk');
      if (half) {
        await overwrite({ file: daemon.live('disk') });
        const made = (await daemon.counters('disk')).copies - copies;
        if (made !== size / CHUNK / 2)
          throw new Error(`${made} chunks were copied, not half of ${size / CHUNK}`);
      }
      try {
        return await use(daemon.disk(taken!));
      } finally {
        await daemon.deleteAll('disk');
      }
    },
  });
  const segments = await split(folder, content);
  const readers = [
    snapshot(FRESH, false),
    snapshot(HALF, true),
    rawMount(SEGMENTS, folder, segments),
    rawMount('raw mount, passed through', folder, content),
  ];
  if (!plan.peers.includes('qemu')) return readers;
  const source = join(folder, 'qemu-source');
  copyFileSync(content, source);
  const qemu = (name: string, half: boolean): Reader => ({
    name,
    async with(use) {
      const served = await fleece(folder, source, size, 'fuse');
      try {
        if (half) await overwrite(served.live);
        return await use(served.snapshot);
      } finally {
        await served.stop();
      }
    },
  });
  return [...readers, qemu('QEMU, nothing copied', false), qemu('QEMU, half copied', true)];
}

function rawMount(name: string, folder: string, file: string): Reader {
  const point = join(folder, 'raw');
  mkdirSync(point, { recursive: true });
  return {
    name,
    async with(use) {
      const undo = unmountAtEnd(point);
      await run(process.execPath, [ASOF, 'mount', file, point]);
      try {
        return await use(join(point, 'disk'));
      } finally {
        await run(process.execPath, [ASOF, 'umount', point]);
        if (isMounted(point)) await untilMounted(point, false);
        undo();
      }
    },
  };
}

/** The content in two segments, the second of which is its last chunk. */
async function split(folder: string, content: string): Promise<string> {
  const first = join(folder, 'content.000');
  const { size } = statSync(content);
  const source = await open(content);
  try {
    const tail = Buffer.alloc(CHUNK);
    await source.read(tail, 0, CHUNK, size - CHUNK);
    copyFileSync(content, first);
    const head = await open(first, 'r+');
    await head.truncate(size - CHUNK);
    await head.close();
    const last = await open(join(folder, 'content.001'), 'w');
    await last.write(tail);
    await last.close();
  } finally {
    await source.close();
  }
  return first;
}
