/**
 * A volume with one snapshot and the same with a thousand, each of which holds something of its own: first and later writes
 * take turns on both.
 */
import { copyFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryFolder } from '../process.js';
import { figure, median, table } from '../table.js';
import { type Aim, worst } from './aims.js';
import { Daemon } from './daemon.js';
import { CHUNK, type Load, measure } from './load.js';

export interface ManyPlan {
  readonly size: number;
  readonly runs: number;
  readonly seconds: number;
  readonly snapshots: number;
}

export async function many(
  plan: ManyPlan,
  parent: string,
  content: string,
  say: (text: string) => void,
): Promise<{ table: string; aims: Aim[] }> {
  const { size, seconds, snapshots } = plan;
  const folder = temporaryFolder(parent, 'many');
  const daemon = await Daemon.start(folder);
  const names = ['one', 'many'] as const;
  const rates = new Map<string, number[]>();
  let milliseconds = 0;
  try {
    for (const name of names) {
      const origin = join(folder, name);
      copyFileSync(content, origin);
      await daemon.add({ name, origin, store: join(folder, `${name}.store`), durability: 'process' });
    }
    const live = await open(daemon.live('many'), 'r+');
    const bytes = Buffer.alloc(4096, 1);
    const begin = performance.now();
    for (let i = 0; i < snapshots; i++) {
      if (i % 100 === 0) say(`many: snapshot ${i} of ${snapshots}`);
      await daemon.snapshot('many');
      await live.write(bytes, 0, bytes.length, ((i * 7) % (size / CHUNK)) * CHUNK);
    }
    milliseconds = (performance.now() - begin) / snapshots;
    await live.close();
    for (let round = 0; round < plan.runs; round++) {
      say(`many: writes, run ${round + 1} of ${plan.runs}`);
      for (const block of [4096, CHUNK]) {
        const load: Load = { rw: 'randwrite', block, jobs: 4, direct: true, size };
        for (const name of round % 2 ? [...names].reverse() : names) {
          if (name === 'one') await daemon.deleteAll('one');
          await daemon.snapshot(name);
          for (const kind of ['first', 'later'] as const) {
            const { mbps } = await measure(
              { file: daemon.live(name) },
              { ...load, seconds: kind === 'later' ? seconds : undefined },
            );
            const key = `${kind} ${block / 1024} KiB writes, 4 writers/${name}`;
            rates.set(key, [...(rates.get(key) ?? []), mbps]);
          }
        }
      }
    }
  } finally {
    await daemon.stop();
  }
  const loads = [...new Set([...rates.keys()].map(key => key.split('/')[0]!))];
  const rate = (load: string, name: string) => median(rates.get(`${load}/${name}`) ?? [Number.NaN]);
  const ratio = (load: string) => rate(load, 'many') / rate(load, 'one');
  return {
    table: table(
      ['MB/s', '1 snapshot', `${snapshots} snapshots`, 'ratio'],
      [
        ...loads.map(load => [
          load,
          figure(rate(load, 'one')),
          figure(rate(load, 'many')),
          figure(ratio(load)),
        ]),
        ['to take one and write 4 KiB, ms', '', figure(milliseconds), ''],
      ],
    ),
    aims: [
      {
        aim: `${snapshots} snapshots: rate to that with 1`,
        ...worst(
          loads.map(load => ({ value: ratio(load), where: load })),
          'least',
        ),
        unit: '×',
        limit: 0.95,
        at: 'least',
      },
    ],
  };
}
