/**
 * A listing of thousands of points, each of which was verified: the whole command, from its start to its end.
 */
import { createHash, randomUUID } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Aim } from '../cow/aims.js';
import { temporaryFolder } from '../process.js';
import { ASOF } from '../servers.js';
import { figure, median, table } from '../table.js';
import { timed } from './timed.js';

interface Point {
  readonly id: string;
  readonly root: string;
  readonly image: object;
}

export async function listing(points: number, runs: number, folder: string, say: (text: string) => void) {
  say(`a history of ${points} points`);
  const own = temporaryFolder(folder, 'listing');
  const [source, history] = [join(own, 'source.img'), join(own, 'history')];
  writeFileSync(source, Buffer.alloc(65_536, 7));
  const backup = () => timed([process.execPath, ASOF, 'backup', source, '--to', history]);
  await backup();
  multiply(history, points);
  const without: number[] = [];
  const list = () => timed([process.execPath, ASOF, 'history', history]);
  const figures: { start: number; seconds: number; memory: number }[] = [];
  without.push((await list()).seconds);
  // It renews the catalogue.
  await backup();
  for (let run = 0; run < runs; run++) {
    say(`listing, run ${run + 1} of ${runs}`);
    const start = (await timed([process.execPath, '-e', '0'])).seconds;
    const { seconds, memory } = await list();
    figures.push({ start, seconds, memory });
  }
  const of = (key: 'start' | 'seconds' | 'memory') => median(figures.map(one => one[key]));
  const rows = [
    ['node itself, ms', figure(of('start') * 1000)],
    ['the whole command, ms', figure(of('seconds') * 1000)],
    ['memory, MiB', figure(of('memory'))],
    ['without a catalogue, ms', figure(median(without) * 1000)],
  ];
  const aim: Aim = {
    aim: `${points} points listed`,
    reached: of('seconds') * 1000,
    unit: 'ms',
    limit: 200,
    at: 'most',
    where: `node itself is ${figure(of('start') * 1000)} ms of it`,
  };
  return { table: table([`a listing of ${points} points`, ''], rows), aims: [aim] };
}

/** More points like the one that is there, with all their files but what is in them. */
function multiply(history: string, points: number): void {
  const name = readdirSync(history).find(one => one.endsWith('.json'))!;
  const { body } = JSON.parse(readFileSync(join(history, name), 'utf8')) as { body: Point };
  let below = body;
  for (let i = 1; i < points; i++) {
    const id = randomUUID();
    const time = new Date(Date.UTC(2025, 0, 1) + i * 3_600_000).toISOString();
    const stem = `source-${time.slice(0, 19).replaceAll(':', '-')}Z-${id.slice(0, 8)}`;
    const root = createHash('sha256').update(id).digest('hex');
    const base = i % 100 === 0 ? null : { id: below.id, root: below.root, choice: 'previous' };
    const image = { ...body.image, file: `${stem}.qcow2`, metadata: root };
    const tree = { file: `${stem}.tree`, bytes: 32_768 };
    const kind = base ? 'incremental' : 'full';
    below = { ...body, ...{ id, time, kind, base, root, image, tree, proof: { root, time } } };
    const result = {
      time,
      depth: 'stored',
      sample: null,
      sound: true,
      bytes: 65_536,
      faults: [],
      defects: [],
    };
    writeFileSync(join(history, `${stem}.json`), sealed('point', below));
    writeFileSync(join(history, `${stem}.verified`), sealed('verification', { results: [result] }));
    for (const part of ['qcow2', 'tree']) writeFileSync(join(history, `${stem}.${part}`), '');
  }
}

function sealed(kind: string, body: object): string {
  const sha256 = createHash('sha256').update(JSON.stringify(body)).digest('hex');
  return `${JSON.stringify({ asof: kind, version: 1, sha256, body }, null, 1)}\n`;
}
