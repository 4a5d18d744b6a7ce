/**
 * The benchmark of histories: see bench/README.md. Tables go to standard output, progress to standard error.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Aim, aimsTable } from '../cow/aims.js';
import { cleanUp, run, temporaryFolder } from '../process.js';
import { circumstances, say, update } from '../report.js';
import { full } from './full.js';
import { incremental } from './incremental.js';
import { listing } from './listing.js';
import { proof } from './proof.js';
import { makeVolume } from './volume.js';

const PARTS = ['full', 'incremental', 'proof', 'listing'] as const;
const PEERS = ['qemu-img', 'QEMU’s', 'partclone', 'restic', 'borg'];
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const SCRIPT = 'bench:history';

const HELP = `npm run ${SCRIPT} -- [OPTIONS]
  --quick          a glance, about a minute: less of all, one run
  --runs N         runs a figure is the median of (3)
  --size MIB       size of the volume that is backed up (1024)
  --sizes A,B      of sparse volumes, GiB (4,16,64)
  --points N       that are listed (10000)
  --only A,B       of: ${PARTS.join(', ')}
  --peers A,B      of: ${PEERS.join(', ')}
  --dir DIR        where all is made, about six times the size (/dev/shm)
  --update         write the tables into bench/README.md, too`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      runs: { type: 'string' },
      size: { type: 'string' },
      sizes: { type: 'string' },
      points: { type: 'string', default: '10000' },
      only: { type: 'string', default: PARTS.join() },
      peers: { type: 'string', default: PEERS.join() },
      dir: { type: 'string', default: '/dev/shm' },
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
  const size = Number(values.size ?? (quick ? 256 : 1024)) * MIB;
  const sizes = (values.sizes ?? (quick ? '1,4' : '4,16,64')).split(',').map(one => Number(one) * GIB);
  const parts = values.only.split(',');
  const folder = temporaryFolder(values.dir, 'history');
  const volume = join(folder, 'volume.img');
  if (parts.includes('full') || parts.includes('proof')) {
    say(`a volume of ${size / MIB} MiB`);
    await makeVolume(folder, volume, size);
  }
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
  await part('full', () => full({ volume, size, runs, peers: values.peers.split(',') }, folder, say));
  await part('incremental', () => incremental(sizes, runs, folder, say));
  await part('proof', () => proof({ volume, size, runs, seconds: quick ? 0.3 : 1 }, folder, say));
  await part('listing', () => listing(Number(values.points), quick ? 3 : 7, folder, say));
  console.log(aimsTable(aims));
  if (!values.update) return;
  update(SCRIPT, [circumstances(SCRIPT, await versions()), ...tables, aimsTable(aims)]);
}

async function versions(): Promise<string[]> {
  const asked = [
    ['QEMU', 'qemu-img', '--version'],
    ['partclone', 'partclone.extfs', '--version'],
    ['restic', 'restic', 'version'],
    ['borg', 'borg', '--version'],
  ] as const;
  const found: string[] = [];
  for (const [name, program, option] of asked) {
    const said = await run(program, [option]).catch(() => '');
    const version = /(\d+\.\d+(?:\.\d+)*)/.exec(said)?.[1];
    if (version) found.push(`${name} ${version}`);
  }
  return found;
}

try {
  await main();
} finally {
  cleanUp();
}
