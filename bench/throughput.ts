/**
 * Every server on every image, alternating: one run is each job on each server in turn, and then the next run. A
 * mount is fresh for each job, so that no server finds its own page cache filled; the image files themselves are in
 * the page cache for all. The plain file is therefore as warm as a file can be: it is the limit, not a competitor.
 */
import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Image } from './content.js';
import { type Job, measure } from './jobs.js';
import { temporaryFolder } from './process.js';
import type { Server } from './servers.js';
import { figure, median, table } from './table.js';

export interface Plan {
  readonly images: readonly Image[];
  readonly servers: readonly Server[];
  readonly jobs: readonly Job[];
  readonly runs: number;
  readonly seconds: number;
}

/** A Markdown table: rates of all servers, and how many times each peer's rate asof has. */
export async function throughput(plan: Plan, folder: string, say: (text: string) => void): Promise<string> {
  const rates = new Map<string, number[]>();
  const mounts = temporaryFolder(folder, 'mnt');
  for (const image of plan.images) {
    await warm(dirname(image.file), image);
    const servers = plan.servers.filter(server => server.can(image));
    for (let round = 0; round < plan.runs; round++) {
      for (const job of plan.jobs) {
        say(`${image.row}, ${job.name}, run ${round + 1} of ${plan.runs}`);
        // Each round begins with another server: none is always the first after a pause.
        for (let i = 0; i < servers.length; i++) {
          const server = servers[(i + round) % servers.length]!;
          const served = await server.start(image, mounts);
          try {
            const key = keyOf(image, job, server);
            rates.set(key, [...(rates.get(key) ?? []), await measure(job, served.disk, plan.seconds)]);
          } finally {
            await served.stop();
          }
        }
      }
    }
  }
  const rows = plan.images.flatMap(image =>
    plan.jobs.map(job => {
      const rate = (server: Server) => {
        const values = rates.get(keyOf(image, job, server));
        return values ? median(values) : undefined;
      };
      const own = rate(plan.servers[0]!);
      const cells = plan.servers.map(server => {
        const value = rate(server);
        if (value === undefined) return 'n/a';
        if (own === undefined || server === plan.servers[0]) return figure(value);
        return `${figure(value)} (${figure(own / value)}×)`;
      });
      return [image.row, `${job.name}, ${job.unit}`, ...cells];
    }),
  );
  return table(['image', 'load', ...plan.servers.map(({ name }) => name)], rows);
}

function keyOf(image: Image, job: Job, server: Server): string {
  return [image.row, job.name, server.name].join('/');
}

/** Reads the files of the image once. */
async function warm(folder: string, image: Image): Promise<void> {
  const chain = image.row.startsWith('chain') ? (await readdir(folder)).filter(isMember(image.row)) : [];
  for (const path of [image.file, ...chain.map(name => join(folder, name))]) {
    for await (const _ of createReadStream(path, { highWaterMark: 1 << 20 })) {
      // Only to have been read.
    }
  }
}

function isMember(row: string): (name: string) => boolean {
  return name => name === 'plain.qcow2' || name.startsWith(`${row}-`);
}
