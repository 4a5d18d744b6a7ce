/**
 * How long a snapshot of eight volumes holds their writes, while all eight are written.
 */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { serve, temporaryFolder } from '../process.js';
import { figure, table } from '../table.js';
import type { Aim } from './aims.js';
import { Daemon, type Snapshot } from './daemon.js';

const VOLUMES = 8;
const SIZE = 32 * 2 ** 20;

export async function hold(
  parent: string,
  count: number,
  say: (text: string) => void,
): Promise<{ table: string; aims: Aim[] }> {
  const folder = temporaryFolder(parent, 'hold');
  const daemon = await Daemon.start(folder);
  const names = Array.from({ length: VOLUMES }, (_, i) => `v${i}`);
  const taken: Snapshot[] = [];
  try {
    for (const name of names) {
      const origin = join(folder, name);
      writeFileSync(origin, '');
      truncateSync(origin, SIZE);
      await daemon.add({ name, origin, store: join(folder, `${name}.store`), durability: 'process' });
    }
    const writers = serve('fio', [
      ...['--ioengine=psync', '--rw=randwrite', '--bs=4k', '--direct=1', '--thread', '--norandommap'],
      ...['--allow_file_create=0', '--fallocate=none', '--time_based', '--runtime=1d', '--output=/dev/null'],
      ...names.flatMap(name => [`--name=${name}`, `--filename=${daemon.live(name)}`, `--size=${SIZE}`]),
    ]);
    const patience = performance.now() + 60_000;
    try {
      for (const name of names) {
        while ((await daemon.counters(name)).firstWrites === 0) {
          if (performance.now() > patience) throw new Error(`nothing is written to ${name}`);
          await new Promise(resolve => setTimeout(resolve, 10));
        }
      }
      let before = '';
      for (let i = 0; i < count; i++) {
        if (i % 50 === 0) say(`hold: snapshot ${i} of ${count}`);
        const [snapshot] = await daemon.snapshot(...names);
        taken.push(snapshot!);
        if (before) await daemon.delete(before);
        before = snapshot!.group;
      }
    } finally {
      await writers.stop();
    }
  } finally {
    await daemon.stop();
  }
  const holds = taken.map(({ holdNs }) => holdNs / 1e3);
  const switches = taken.map(({ switchNs }) => switchNs / 1e3);
  const row = (name: string, values: readonly number[]) => [
    name,
    ...[50, 90, 99, 100].map(p => figure(percentile(values, p))),
  ];
  const where = `${count} snapshots of ${VOLUMES} volumes`;
  return {
    table: table(
      [where, 'median', '90 %', '99 %', 'worst'],
      [row('writes held, µs', holds), row('the switch, µs', switches)],
    ),
    aims: [
      { aim: 'hold, 99 %', reached: percentile(holds, 99) / 1e3, unit: 'ms', limit: 5, at: 'most', where },
      { aim: 'switch, 99 %', reached: percentile(switches, 99), unit: 'µs', limit: 100, at: 'most', where },
    ],
  };
}

export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil((sorted.length * percent) / 100) - 1)] ?? Number.NaN;
}
