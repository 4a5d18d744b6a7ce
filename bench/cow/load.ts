/**
 * fio's loads on a disk, each in as many equal shares of it as there are jobs, so that no two jobs write the same chunk.
 */
import { run } from '../process.js';

export const CHUNK = 65_536;

export interface Load {
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite';
  /** Bytes. */
  readonly block: number;
  readonly jobs: number;
  readonly direct: boolean;
  /** Bytes of the disk. */
  readonly size: number;
  /** Seconds to go round the disk for; once over it where undefined. */
  readonly seconds?: number | undefined;
  /** Only every other chunk. */
  readonly alternate?: boolean;
}

export interface Rate {
  readonly mbps: number;
  /** Thousands of operations a second. */
  readonly kiops: number;
  /** Microseconds an operation takes one writer. */
  readonly micros: number;
}

/** Where the disk is: a file, or an NBD export. */
export type Target = { readonly file: string } | { readonly uri: string };

/**
 * Writes in blocks below the size of a chunk touch each chunk once, at a place of their own in it: then each is a first
 * write. Larger blocks cover the disk, in an order that never repeats.
 */
export function argumentsOf(target: Target, load: Load): string[] {
  const share = load.size / load.jobs;
  const small = load.rw === 'randwrite' && load.block < CHUNK;
  const bytes = small ? (share / CHUNK) * load.block : load.alternate ? share / 2 : share;
  const zones = small
    ? ['--zonemode=strided', `--zonesize=${load.block}`, `--zonerange=${CHUNK}`]
    : load.alternate
      ? ['--zonemode=strided', `--zonesize=${CHUNK}`, `--zonerange=${CHUNK}`, `--zoneskip=${CHUNK}`]
      : [];
  return [
    '--name=job',
    ...('file' in target
      ? ['--ioengine=psync', `--filename=${target.file}`, '--allow_file_create=0', '--fallocate=none']
      : ['--ioengine=nbd', `--uri=${target.uri}`]),
    ...['--thread', '--group_reporting', '--output-format=json', '--invalidate=0', '--randrepeat=1'],
    ...[`--rw=${load.rw}`, `--bs=${load.block}`, `--numjobs=${load.jobs}`, `--direct=${load.direct ? 1 : 0}`],
    ...[`--size=${share}`, `--offset_increment=${share}`],
    ...(load.seconds ? ['--time_based', `--runtime=${load.seconds}`] : [`--io_size=${bytes}`]),
    ...zones,
  ];
}

/** Rejects where fio met an error. */
export async function measure(target: Target, load: Load): Promise<Rate> {
  const answer = await run('fio', argumentsOf(target, load));
  const { jobs } = JSON.parse(answer.slice(answer.indexOf('{'))) as {
    jobs: { error: number; read: Side; write: Side }[];
  };
  const result = jobs[0];
  if (result?.error !== 0) throw new Error(`fio: error ${result?.error}`);
  const side = load.rw.endsWith('read') ? result.read : result.write;
  return {
    mbps: side.bw_bytes / 1e6,
    kiops: side.iops / 1e3,
    micros: side.clat_ns.mean / 1e3,
  };
}

interface Side {
  readonly bw_bytes: number;
  readonly iops: number;
  readonly clat_ns: { readonly mean: number };
}
