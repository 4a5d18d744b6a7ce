/**
 * Writes to one disk in every way that it can be protected. One visit to a target measures all that belongs together (its
 * live device without a snapshot, first writes, later writes), so that these stand next to each other in time; targets take
 * turns, and each run begins with another one.
 */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../process.js';
import { figure, median, table } from '../table.js';
import { type Aim, worst } from './aims.js';
import { clones } from './clones.js';
import { Daemon } from './daemon.js';
import { CHUNK, type Load, measure, type Target } from './load.js';
import { fleece } from './qemu.js';

export interface WritesPlan {
  /** Bytes of the disk: a multiple of 4 MiB. */
  readonly size: number;
  readonly runs: number;
  readonly seconds: number;
  readonly durability: 'process' | 'power';
  readonly modes: readonly ('buffered' | 'direct')[];
  readonly jobs: readonly number[];
  readonly peers: readonly string[];
}

const BLOCKS = [4096, 65_536, 1_048_576];
type Column =
  | 'plain'
  | 'none'
  | 'first'
  | 'later'
  | 'qemu first'
  | 'qemu later'
  | 'nbd first'
  | 'nbd later'
  | 'clone first'
  | 'clone later';

const HEADS: Record<Column, string> = {
  plain: 'plain file',
  none: 'asof, no snapshot',
  first: 'asof, first',
  later: 'asof, later',
  'qemu first': 'QEMU FUSE, first',
  'qemu later': 'QEMU FUSE, later',
  'nbd first': 'QEMU NBD, first',
  'nbd later': 'QEMU NBD, later',
  'clone first': 'FICLONE, first',
  'clone later': 'FICLONE, later',
};

interface Visitor {
  readonly name: string;
  visit(load: Load): Promise<Partial<Record<Column, number>>>;
}

/** A Markdown table of MB/s (thousands of writes a second for 4 KiB), and the aims that it decides. */
export async function writes(
  plan: WritesPlan,
  parent: string,
  content: string,
  say: (text: string) => void,
): Promise<{ table: string; aims: Aim[] }> {
  const folder = temporaryFolder(parent, 'writes');
  const { stop, visitors } = await open(plan, folder, content, say);
  const rates = new Map<string, number[]>();
  const cases = plan.modes.flatMap(mode =>
    BLOCKS.flatMap(block => plan.jobs.map(jobs => ({ mode, block, jobs }))),
  );
  try {
    for (let round = 0; round < plan.runs; round++) {
      for (const { mode, block, jobs } of cases) {
        say(`${plan.durability}, ${nameOf(mode, block, jobs)}, run ${round + 1} of ${plan.runs}`);
        const load: Load = { rw: 'randwrite', block, jobs, direct: mode === 'direct', size: plan.size };
        for (let i = 0; i < visitors.length; i++) {
          const visitor = visitors[(i + round) % visitors.length]!;
          for (const [column, rate] of Object.entries(await visitor.visit(load))) {
            const key = `${nameOf(mode, block, jobs)}/${column}`;
            rates.set(key, [...(rates.get(key) ?? []), rate]);
          }
        }
      }
    }
  } finally {
    await stop();
  }
  const rate = (name: string, column: Column) => {
    const values = rates.get(`${name}/${column}`);
    return values ? median(values) : undefined;
  };
  const columns = (Object.keys(HEADS) as Column[]).filter(column =>
    [...rates.keys()].some(key => key.endsWith(`/${column}`)),
  );
  const named = cases.map(({ mode, block, jobs }) => ({ name: nameOf(mode, block, jobs), block, jobs }));
  const rows = named.map(({ name }) => {
    const base = { first: rate(name, 'none'), later: rate(name, 'none') };
    return [
      name,
      ...columns.map(column => {
        const value = rate(name, column);
        if (value === undefined) return 'n/a';
        const of = column === 'first' ? base.first : column === 'later' ? base.later : undefined;
        const peer = /^(qemu|nbd|clone)/.test(column)
          ? rate(name, column.endsWith('first') ? 'first' : 'later')
          : undefined;
        if (of !== undefined) return `${figure(value)} (1/${figure(of / value)})`;
        return peer === undefined ? figure(value) : `${figure(value)} (${figure(peer / value)}×)`;
      }),
    ];
  });
  return {
    table: table([`writes, \`${plan.durability}\``, ...columns.map(column => HEADS[column])], rows),
    aims: aimsOf(plan, named, rate),
  };
}

function aimsOf(
  plan: WritesPlan,
  cases: readonly { name: string; block: number; jobs: number }[],
  rate: (name: string, column: Column) => number | undefined,
): Aim[] {
  const ratios = (over: Column, under: Column, wanted: (one: { block: number; jobs: number }) => boolean) =>
    cases.filter(wanted).flatMap(({ name }) => {
      const [a, b] = [rate(name, over), rate(name, under)];
      return a === undefined || b === undefined ? [] : [{ value: a / b, where: name }];
    });
  const any = () => true;
  if (plan.durability === 'power') {
    return [
      {
        aim: "first writes, `power`, 4 writers: asof's rate to that of QEMU with writethrough",
        ...worst(
          ratios('first', 'qemu first', ({ jobs }) => jobs === 4),
          'least',
        ),
        unit: '×',
        limit: 2,
        at: 'least',
      },
    ];
  }
  const whole = ({ block }: { block: number }) => block === CHUNK;
  return [
    {
      aim: 'later writes: cost to that without a snapshot',
      ...worst(ratios('none', 'later', any), 'most'),
      unit: '×',
      limit: 1.15,
      at: 'most',
    },
    {
      aim: 'first 64 KiB writes: cost to that without a snapshot',
      ...worst(ratios('none', 'first', whole), 'most'),
      unit: '×',
      limit: 2.2,
      at: 'most',
    },
    {
      aim: "first 64 KiB writes: asof's rate to QEMU's (the better of FUSE and NBD)",
      ...worst([...ratios('first', 'qemu first', whole), ...ratios('first', 'nbd first', whole)], 'least'),
      unit: '×',
      limit: 1.5,
      at: 'least',
    },
  ];
}

async function open(
  plan: WritesPlan,
  folder: string,
  content: string,
  say: (text: string) => void,
): Promise<{ visitors: Visitor[]; stop: () => Promise<void> }> {
  const { size, seconds, durability } = plan;
  const file = (name: string) => {
    copyFileSync(content, join(folder, name));
    return join(folder, name);
  };
  const rateOf = async (target: Target, load: Load) => {
    const { mbps, kiops } = await measure(target, load);
    return load.block < CHUNK ? kiops : mbps;
  };
  const visitors: Visitor[] = [];
  const stops: (() => Promise<void>)[] = [];

  if (durability === 'process') {
    const plain = file('plain');
    visitors.push({
      name: 'plain',
      visit: async load => ({ plain: await rateOf({ file: plain }, { ...load, seconds }) }),
    });
  }

  const daemon = await Daemon.start(folder);
  stops.push(() => daemon.stop());
  await daemon.add({ name: 'disk', origin: file('origin'), store: join(folder, 'store'), durability });
  const live = { file: daemon.live('disk') };
  visitors.push({
    name: 'asof',
    async visit(load) {
      await daemon.deleteAll('disk');
      const none = await rateOf(live, { ...load, seconds });
      await daemon.snapshot('disk');
      const { copies } = await daemon.counters('disk');
      const first = await rateOf(live, load);
      const made = (await daemon.counters('disk')).copies - copies;
      if (made !== size / CHUNK) throw new Error(`${made} chunks were copied, not all ${size / CHUNK}`);
      return { none, first, later: await rateOf(live, { ...load, seconds }) };
    },
  });

  if (plan.peers.includes('qemu')) {
    const source = file('qemu-source');
    visitors.push({
      name: 'QEMU, FUSE',
      async visit(load) {
        const served = await fleece(folder, source, size, 'fuse', durability === 'power');
        try {
          const first = await rateOf(served.live, load);
          return {
            'qemu first': first,
            'qemu later': await rateOf(served.live, { ...load, seconds }),
          };
        } finally {
          await served.stop();
        }
      },
    });
    if (plan.peers.includes('nbd') && durability === 'process') {
      visitors.push({
        name: 'QEMU, NBD',
        async visit(load) {
          if (!load.direct) return {}; // no page cache lies before it
          const served = await fleece(folder, source, size, 'nbd');
          try {
            const first = await rateOf(served.live, load);
            return {
              'nbd first': first,
              'nbd later': await rateOf(served.live, { ...load, seconds }),
            };
          } finally {
            await served.stop();
          }
        },
      });
    }
  }

  if (plan.peers.includes('ficlone') && durability === 'process') {
    const clone = await clones(folder, content, size, say);
    if (clone) {
      stops.push(() => clone.stop());
      visitors.push({
        name: 'FICLONE',
        async visit(load) {
          await clone.fresh();
          const first = await rateOf({ file: clone.file }, load);
          return {
            'clone first': first,
            'clone later': await rateOf({ file: clone.file }, { ...load, seconds }),
          };
        },
      });
    }
  }
  return {
    visitors,
    async stop() {
      for (const one of stops.reverse()) await one();
    },
  };
}

function nameOf(mode: string, block: number, jobs: number): string {
  const size = block < 2 ** 20 ? `${block / 1024} KiB` : `${block / 2 ** 20} MiB`;
  return `${size} ${mode}, ${jobs} writer${jobs > 1 ? 's' : ''}, ${block < CHUNK ? 'k/s' : 'MB/s'}`;
}
