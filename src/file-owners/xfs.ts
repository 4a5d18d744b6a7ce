/**
 * XFS: the log by the superblock (xfs_format.h of the kernel, struct xfs_dsb), what is free by xfs_db(8). Block numbers of XFS
 * have the allocation group in their upper bits.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import type { Place } from './owners.js';
import type { Run } from './runs.js';
import { ask } from './tools.js';

interface Geometry {
  readonly block: number;
  /** Blocks of a group. */
  readonly group: number;
  readonly log: Run | undefined;
}

export async function xfsLog({ device }: Place): Promise<Run[]> {
  const { log } = geometryOf(device);
  return log ? [log] : [];
}

export async function xfsFree({ device, signal }: Place): Promise<Run[]> {
  const { block, group } = geometryOf(device);
  const text = await ask('xfs_db', ['-r', '-c', 'freesp -d', device], signal);
  const runs: Run[] = [];
  for (const line of text.split('\n')) {
    const [, number, at, length] = /^\s*(\d+)\s+(\d+)\s+(\d+)\s*$/.exec(line) ?? [];
    if (number === undefined) {
      // The histogram follows, whose lines look different, behind its head.
      if (line.includes('from')) break;
      continue;
    }
    runs.push([(Number(number) * group + Number(at)) * block, Number(length) * block]);
  }
  return runs;
}

function geometryOf(device: string): Geometry {
  const fd = openSync(device, 'r');
  const head = Buffer.alloc(512);
  try {
    readSync(fd, head, 0, head.length, 0);
  } finally {
    closeSync(fd);
  }
  const block = head.readUInt32BE(4);
  const group = head.readUInt32BE(84);
  if (head.toString('latin1', 0, 4) !== 'XFSB' || block < 512 || block > 65536 || group === 0) {
    throw new Error('its superblock makes no sense');
  }
  const start = head.readBigUInt64BE(48);
  const shift = BigInt(head[124]!);
  const at = Number(start >> shift) * group + Number(start & ((1n << shift) - 1n));
  return {
    block,
    group,
    log: start === 0n ? undefined : [at * block, head.readUInt32BE(96) * block],
  };
}
