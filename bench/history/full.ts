/**
 * A full backup of one volume by each maker, and one more after a hundredth of it was changed, alternating.
 */
import { closeSync, copyFileSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Aim, worst } from '../cow/aims.js';
import { figure, median, table } from '../table.js';
import { MAKERS, type Maker, missingOf } from './makers.js';
import { bytesIn, type Cost } from './timed.js';
import { change } from './volume.js';

const MIB = 2 ** 20;

interface Measured extends Cost {
  /** Bytes that the backup added. */
  readonly stored: number;
}

export interface FullPlan {
  readonly volume: string;
  readonly size: number;
  readonly runs: number;
  readonly peers: readonly string[];
}

export async function full(plan: FullPlan, folder: string, say: (text: string) => void) {
  const { volume, size, runs } = plan;
  const changed = join(folder, 'changed');
  copyFileSync(volume, changed);
  const fd = openSync(changed, 'r+');
  const bytes = change(fd, size, 0.01, 7);
  closeSync(fd);
  const makers = MAKERS.filter(
    ({ name }) => name.startsWith('asof') || plan.peers.includes(name.split(/[ ,]/)[0]!),
  );
  const there = makers.filter(maker => missingOf(maker).length === 0);
  const first = new Map<Maker, Measured[]>();
  const second = new Map<Maker, Measured[]>();
  for (let round = 0; round < runs; round++) {
    for (let i = 0; i < there.length; i++) {
      // Each round begins with another: none is always the first after a pause.
      const maker = there[(i + round) % there.length]!;
      say(`${maker.name}, run ${round + 1} of ${runs}`);
      const own = join(folder, `maker-${i}`);
      mkdirSync(own);
      // The volume of the first backup and of the second has one path, by which makers know it.
      const disk = join(own, 'disk.img');
      copyFileSync(volume, disk);
      const before = bytesIn(own);
      const cost = await maker.full(disk, own);
      const between = bytesIn(own);
      first.set(maker, [...(first.get(maker) ?? []), { ...cost, stored: between - before }]);
      if (maker.next) {
        copyFileSync(changed, disk);
        const more = await maker.next(disk, own);
        second.set(maker, [...(second.get(maker) ?? []), { ...more, stored: bytesIn(own) - between }]);
      }
      rmSync(own, { recursive: true });
    }
  }
  rmSync(changed);
  const [fulls, nexts] = [first, second].map(all => {
    const medians = new Map<Maker, Measured>();
    for (const [maker, values] of all) medians.set(maker, medianOf(values));
    return medians;
  });
  const skipped = makers.filter(maker => !there.includes(maker));
  const head = ['MB/s', 'asof’s rate to it', 'CPU s', 'stored MiB', 'memory MiB'];
  const rows = (medians: ReadonlyMap<Maker, Measured>) => {
    const own = [...medians].find(([{ name }]) => name === 'asof')?.[1];
    return [...medians].map(([{ name }, { seconds, cpu, stored, memory }]) => [
      name,
      figure(size / 1e6 / seconds),
      own ? `${figure(seconds / own.seconds)}×` : 'n/a',
      figure(cpu),
      figure(stored / MIB),
      figure(memory),
    ]);
  };
  const absent = skipped.map(maker => [
    maker.name,
    `skipped: ${missingOf(maker).join(', ')} missing`,
    '',
    '',
    '',
    '',
  ]);
  const tables = [
    table([`full, ${size / MIB} MiB`, ...head], [...rows(fulls!), ...absent]),
    table([`once more, ${figure(bytes / MIB)} MiB changed, all read`, ...head], rows(nexts!)),
  ];
  return { table: tables.join('\n\n'), aims: aimsOf(fulls!) };
}

function medianOf(values: readonly Measured[]): Measured {
  const of = (key: keyof Measured) => median(values.map(value => value[key]));
  return { seconds: of('seconds'), cpu: of('cpu'), stored: of('stored'), memory: of('memory') };
}

function aimsOf(fulls: ReadonlyMap<Maker, Measured>): Aim[] {
  const named = (name: string) => [...fulls].find(([maker]) => maker.name === name)?.[1];
  const [own, qemu] = [named('asof'), named('qemu-img convert -c')];
  if (!own || !qemu) return [];
  return [
    {
      aim: 'full: rate to that of `qemu-img convert -c`',
      ...worst([{ value: qemu.seconds / own.seconds, where: 'zstd:3' }], 'least'),
      unit: '×',
      limit: 2,
      at: 'least',
    },
    {
      aim: 'full: stored to what `qemu-img convert -c` stores',
      ...worst([{ value: own.stored / qemu.stored, where: 'zstd:3, with hash tree and manifest' }], 'most'),
      unit: '×',
      limit: 1,
      at: 'most',
    },
  ];
}
