/**
 * The benchmark of images that other systems wrote: see bench/README.md. Tables go to standard output, progress to standard
 * error.
 */
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { JOBS, type Job, measure } from '../jobs.js';
import { cleanUp, temporaryFolder } from '../process.js';
import { circumstances, isInstalled, qemuVersion, say, update } from '../report.js';
import { figure, median, table } from '../table.js';
import { type Image, makeImages, ROWS, temper } from './images.js';
import { SERVERS, type Server } from './servers.js';

const STATES = ['warm', 'cold'] as const;
type State = (typeof STATES)[number];

const HELP = `npm run bench:formats -- [OPTIONS]
  --quick          a glance: a small disk, one run
  --runs N         runs a figure is the median of (3)
  --seconds N      length of a timed load (1)
  --size MIB       size of the content (512)
  --rows A,B       of: ${ROWS.join(', ')}
  --jobs A,B       beginnings of their names, such as "4 KiB"
  --states A,B     of: ${STATES.join(', ')}: the image's file in the page cache, or not
  --dir DIR        where images are made, about six times the content (${tmpdir()})
  --update         write the tables into bench/README.md, too`;

interface Plan {
  readonly images: readonly Image[];
  readonly servers: readonly Server[];
  readonly jobs: readonly Job[];
  readonly state: State;
  readonly runs: number;
  readonly seconds: number;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      runs: { type: 'string' },
      seconds: { type: 'string' },
      size: { type: 'string' },
      rows: { type: 'string', default: ROWS.join() },
      jobs: { type: 'string', default: '1 MiB sequential buffered,4 KiB random' },
      states: { type: 'string', default: STATES.join() },
      dir: { type: 'string', default: tmpdir() },
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
  const seconds = Number(values.seconds ?? (quick ? 0.3 : 1));
  const size = Number(values.size ?? (quick ? 64 : 512)) * 2 ** 20;
  const folder = temporaryFolder(values.dir, 'formats');
  const rows = ROWS.filter(row => values.rows.split(',').includes(row));
  const images = await makeImages(folder, size, rows, say);
  const installed = await Promise.all(SERVERS.map(({ program }) => isInstalled(program)));
  const servers = SERVERS.filter((_, i) => installed[i]);
  const jobs = JOBS.filter(({ name }) => values.jobs.split(',').some(part => name.startsWith(part)));
  const tables: string[] = [];
  for (const state of STATES.filter(one => values.states.split(',').includes(one))) {
    const rates = await rateAll({ images, servers, jobs, state, runs, seconds }, folder);
    tables.push(`**${state}**\n\n${rates}`);
    console.log(`${tables.at(-1)}\n`);
  }
  if (values.update)
    update('bench:formats', [circumstances('bench:formats', [await qemuVersion()]), ...tables]);
}

/** A Markdown table: rates of asof, and of each peer with how many times its rate asof has. */
async function rateAll(
  { images, servers, jobs, state, runs, seconds }: Plan,
  folder: string,
): Promise<string> {
  const rates = new Map<string, number[]>();
  const keyOf = (image: Image, job: Job, { name }: Server) => [image.row, job.name, name].join('/');
  const mounts = temporaryFolder(folder, 'mnt');
  for (const image of images) {
    const able = servers.filter(({ rows }) => rows.includes(image.row));
    for (let round = 0; round < runs; round++) {
      for (const job of jobs) {
        say(`${state}, ${image.row}, ${job.name}, run ${round + 1} of ${runs}`);
        // Each round begins with another server: none is always the first after a pause.
        for (let i = 0; i < able.length; i++) {
          const server = able[(i + round) % able.length]!;
          await temper(image, state);
          const served = await server.start(image, mounts);
          try {
            const key = keyOf(image, job, server);
            rates.set(key, [...(rates.get(key) ?? []), await measure(job, served.disk, seconds)]);
          } finally {
            await served.stop();
          }
        }
      }
    }
  }
  const rows = images.flatMap(image =>
    jobs.map(job => {
      const own = median(rates.get(keyOf(image, job, servers[0]!))!);
      const cells = servers.map((server, i) => {
        const values = rates.get(keyOf(image, job, server));
        if (!values) return '';
        const value = median(values);
        return i === 0 ? figure(value) : `${figure(value)} (${figure(own / value)}×)`;
      });
      return [image.row, `${job.name}, ${job.unit}`, ...cells];
    }),
  );
  return table(['image', 'load', ...servers.map(({ name }) => name)], rows);
}

try {
  await main();
} finally {
  cleanUp();
}
