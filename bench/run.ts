/**
 * The benchmark: see bench/README.md. Tables go to standard output, progress to standard error.
 */
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { type Image, makeImages, ROWS, type Row } from './content.js';
import { JOBS } from './jobs.js';
import { cleanUp, temporaryFolder } from './process.js';
import { isInstalled, say } from './report.js';
import { SERVERS } from './servers.js';
import { memory, readiness } from './start.js';
import { throughput } from './throughput.js';

const HELP = `npm run bench -- [OPTIONS]
  --runs N         runs a figure is the median of (5)
  --seconds N      length of a timed load (3)
  --size MIB       size of the content (2048)
  --rows A,B       of: ${ROWS.join(', ')}
  --jobs A,B       parts of their names, such as "4 KiB"
  --servers A,B    of: ${SERVERS.map(({ name }) => name).join(', ')}; asof is always one
  --only A,B       of: throughput, ready, memory
  --dir DIR        where images are made, about five times the content (${tmpdir()})`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '3' },
      size: { type: 'string', default: '2048' },
      rows: { type: 'string', default: ROWS.join() },
      jobs: { type: 'string', default: '' },
      servers: { type: 'string', default: SERVERS.map(({ name }) => name).join() },
      only: { type: 'string', default: 'throughput,ready,memory' },
      dir: { type: 'string', default: tmpdir() },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const parts = values.only.split(',');
  const runs = Number(values.runs);
  const seconds = Number(values.seconds);
  const folder = temporaryFolder(values.dir, 'images');
  const rows = ROWS.filter(row => values.rows.split(',').includes(row));
  const images: readonly Image[] = parts.includes('throughput')
    ? await makeImages(folder, Number(values.size) * 2 ** 20, rows as Row[], say)
    : [];
  if (parts.includes('throughput')) {
    const wanted = values.servers.split(',');
    const installed = await Promise.all(SERVERS.map(({ program }) => isInstalled(program)));
    const servers = SERVERS.filter(
      ({ name }, i) => name === 'asof' || (wanted.includes(name) && installed[i]),
    );
    const jobs = JOBS.filter(({ name }) => values.jobs.split(',').some(part => name.includes(part)));
    console.log(`${await throughput({ images, servers, jobs, runs, seconds }, folder, say)}\n`);
  }
  if (parts.includes('ready')) {
    const chains = images.filter(({ depth }) => depth > 1);
    const more = Object.fromEntries(chains.map(({ row, file }) => [`${row}, ${values.size} MiB`, file]));
    console.log(`${await readiness(folder, Math.max(runs, 3), more, say)}\n`);
  }
  if (parts.includes('memory')) console.log(`${await memory(folder, seconds, say)}\n`);
}

try {
  await main();
} finally {
  cleanUp();
}
