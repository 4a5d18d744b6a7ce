/**
 * What a tracked incremental costs on sparse volumes of several sizes: of a hundredth of each, of the same amount on all, and of
 * one cluster, which is the fixed part.
 */
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { type Aim, worst } from '../cow/aims.js';
import { Daemon } from '../cow/daemon.js';
import { temporaryFolder } from '../process.js';
import { ASOF } from '../servers.js';
import { figure, median, table } from '../table.js';
import { type Cost, timed } from './timed.js';
import { change } from './volume.js';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

export async function incremental(
  sizes: readonly number[],
  runs: number,
  folder: string,
  say: (text: string) => void,
) {
  const rows: string[][] = [];
  const fixed: { value: number; where: string }[] = [];
  const costs: number[] = [];
  const same = sizes[0]! * 0.01;
  for (const size of sizes) {
    const own = temporaryFolder(folder, 'incremental');
    const origin = join(own, 'origin.img');
    const fd = openSync(origin, 'wx');
    ftruncateSync(fd, size);
    closeSync(fd);
    const daemon = await Daemon.start(own);
    try {
      await daemon.add({ name: 'vol', origin, store: join(own, 'store'), durability: 'process' });
      const backup = async () => {
        const to = ['--to', join(own, 'history'), '--state', join(own, 'state')];
        return timed([process.execPath, ASOF, 'backup', 'vol', ...to]);
      };
      const live = openSync(daemon.live('vol'), 'r+');
      try {
        change(live, size, 0.01, 1);
        await backup();
        const measure = async (what: string, share: number, seed: number) => {
          const costs: Cost[] = [];
          let bytes = 0;
          for (let run = 0; run < runs; run++) {
            say(`incremental, ${size / GIB} GiB, ${what}, run ${run + 1} of ${runs}`);
            bytes = share > 0 ? change(live, size, share, seed + run) : change(live, 10 * MIB, 1 / 64, seed);
            costs.push(await backup());
          }
          const of = (key: keyof Cost) => median(costs.map(cost => cost[key]));
          return { seconds: of('seconds'), cpu: of('cpu'), bytes };
        };
        const least = await measure('a cluster', 0, 2);
        const equal = await measure('the same', same / size, 20);
        const part = await measure('a hundredth', 0.01, 40);
        fixed.push({ value: least.seconds, where: `${size / GIB} GiB` });
        costs.push((equal.seconds - least.seconds) / (equal.bytes / MIB));
        for (const [what, one] of [
          ['a few clusters', least],
          ['the same on all', equal],
          ['1 %', part],
        ] as const) {
          const { seconds, cpu, bytes } = one;
          rows.push([`${size / GIB} GiB, ${what}`, figure(bytes / MIB), figure(seconds), figure(cpu)]);
        }
      } finally {
        closeSync(live);
      }
    } finally {
      await daemon.stop();
    }
  }
  const aims: Aim[] = [
    { aim: 'incremental: the fixed part', ...worst(fixed, 'most'), unit: 's', limit: 0.5, at: 'most' },
    {
      aim: 'incremental: cost of a changed MiB on the largest volume to that on the smallest',
      reached: costs.at(-1)! / costs[0]!,
      unit: '×',
      limit: 1.5,
      at: 'most',
      where: `${sizes.at(-1)! / GIB} GiB`,
    },
  ];
  const head = ['tracked incremental', 'changed MiB', 'seconds', 'CPU s of the command'];
  return { table: table(head, rows), aims };
}
