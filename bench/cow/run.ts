/**
 * The benchmark of the copy-on-write layer: see bench/README.md. Tables go to standard output, progress to standard error.
 */
import { parseArgs } from 'node:util';
import { makeImages } from '../content.js';
import { cleanUp, temporaryFolder } from '../process.js';
import { circumstances, qemuVersion, say, update } from '../report.js';
import { type Aim, aimsTable } from './aims.js';
import { footprint } from './footprint.js';
import { hold } from './hold.js';
import { many } from './many.js';
import { reads } from './reads.js';
import { writes } from './writes.js';

const PARTS = ['writes', 'power', 'reads', 'hold', 'memory', 'many'] as const;
const PEERS = ['qemu', 'nbd', 'ficlone'];
const MIB = 2 ** 20;

const HELP = `npm run bench:cow -- [OPTIONS]
  --quick          a glance, below two minutes: fewer cases, one run
  --runs N         runs a figure is the median of (3)
  --seconds N      length of a timed load (1)
  --size MIB       size of the disk (256)
  --only A,B       of: ${PARTS.join(', ')}
  --peers A,B      of: ${PEERS.join(', ')}
  --snapshots N    of eight volumes under load (200), and of one volume (five times as many)
  --dir DIR        where disks and stores are made, about eight times the size (/dev/shm)
  --disk DIR       the same for durability \`power\`: a folder on a real disk (/var/tmp)
  --update         write the tables into bench/README.md, too`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      runs: { type: 'string' },
      seconds: { type: 'string' },
      size: { type: 'string' },
      only: { type: 'string', default: PARTS.join() },
      peers: { type: 'string', default: PEERS.join() },
      snapshots: { type: 'string' },
      dir: { type: 'string', default: '/dev/shm' },
      disk: { type: 'string', default: '/var/tmp' },
      update: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const { quick } = values;
  const runs = Number(values.runs ?? (quick ? 1 : 3));
  const seconds = Number(values.seconds ?? (quick ? 0.2 : 1));
  // Shares of four writers are whole MiB.
  const size = Math.ceil(Number(values.size ?? (quick ? 64 : 256)) / 4) * 4 * MIB;
  const snapshots = Number(values.snapshots ?? (quick ? 30 : 200));
  const peers = values.peers.split(',');
  const parts = values.only.split(',');
  const folder = temporaryFolder(values.dir, 'cow');
  const makeContent = async (where: string, bytes: number) =>
    (await makeImages(where, bytes, ['raw'], say))[0]!.file;
  const content = await makeContent(folder, size);
  const jobs = [1, 4];
  const tables: string[] = [];
  const aims: Aim[] = [];
  const part = async (
    name: (typeof PARTS)[number],
    measure: () => Promise<{ table: string; aims: Aim[] }>,
  ) => {
    if (!parts.includes(name)) return;
    const result = await measure();
    tables.push(result.table);
    aims.push(...result.aims);
    console.log(`${result.table}\n`);
  };
  await part('writes', () => {
    const modes = quick ? (['direct'] as const) : (['buffered', 'direct'] as const);
    return writes({ size, runs, seconds, durability: 'process', modes, jobs, peers }, folder, content, say);
  });
  await part('power', async () => {
    const disk = temporaryFolder(values.disk, 'power');
    const less = Math.min(size, (quick ? 16 : 64) * MIB);
    const modes = ['direct'] as const;
    const plan = { size: less, runs, seconds, durability: 'power', modes, jobs, peers } as const;
    return writes(plan, disk, await makeContent(disk, less), say);
  });
  await part('reads', () => reads({ size, runs, seconds, peers }, folder, content, say));
  await part('hold', () => hold(folder, snapshots, say));
  await part('memory', () => footprint(folder, quick, say));
  await part('many', () => many({ size, runs, seconds, snapshots: snapshots * 5 }, folder, content, say));
  console.log(aimsTable(aims));
  if (values.update)
    update('bench:cow', [circumstances('bench:cow', [await qemuVersion()]), ...tables, aimsTable(aims)]);
}

try {
  await main();
} finally {
  cleanUp();
}
