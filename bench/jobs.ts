/**
 * The loads, and fio's answer to them.
 */
import { run } from './process.js';

export interface Job {
  readonly name: string;
  readonly unit: 'MB/s' | 'k reads/s';
  readonly args: readonly string[];
  /** Once over the whole file instead of for a time: what is read twice would come from the page cache. */
  readonly once?: boolean;
}

const RANDOM = ['--rw=randread', '--direct=1', '--ioengine=psync', '--norandommap', '--randrepeat=1'];

export const JOBS: readonly Job[] = [
  {
    name: '1 MiB sequential buffered',
    unit: 'MB/s',
    args: ['--rw=read', '--bs=1M', '--ioengine=psync'],
    once: true,
  },
  {
    name: '1 MiB sequential direct',
    unit: 'MB/s',
    args: ['--rw=read', '--bs=1M', '--ioengine=psync', '--direct=1'],
  },
  { name: '4 KiB random direct, 1 job', unit: 'k reads/s', args: [...RANDOM, '--bs=4k'] },
  { name: '4 KiB random direct, 4 jobs', unit: 'k reads/s', args: [...RANDOM, '--bs=4k', '--numjobs=4'] },
  { name: '64 KiB random direct, 4 jobs', unit: 'k reads/s', args: [...RANDOM, '--bs=64k', '--numjobs=4'] },
];

/** Runs `job` on the file; the rate in the job's unit. Rejects where fio met an error. */
export async function measure(job: Job, disk: string, seconds: number): Promise<number> {
  const answer = await run('fio', [
    '--name=job',
    `--filename=${disk}`,
    '--readonly',
    '--thread',
    '--invalidate=0',
    '--group_reporting',
    '--output-format=json',
    ...job.args,
    ...(job.once ? [] : ['--time_based', `--runtime=${seconds}`]),
  ]);
  const { jobs } = JSON.parse(answer.slice(answer.indexOf('{'))) as {
    jobs: { error: number; read: { bw_bytes: number; iops: number } }[];
  };
  const result = jobs[0];
  if (result?.error !== 0) throw new Error(`fio: error ${result?.error} in ${job.name}`);
  return job.unit === 'MB/s' ? result.read.bw_bytes / 1e6 : result.read.iops / 1e3;
}
