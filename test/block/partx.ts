/** What util-linux says of partition tables and contents: libblkid, by partx and blkid. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { Partitioned } from '../../src/block/partitions.js';
import type { SectorSize } from '../../src/block/source.js';
import { attempt } from '../peers.js';

export interface Told {
  readonly number: number;
  /** Bytes. */
  readonly start: number;
  readonly size: number;
  readonly type: string;
  readonly uuid: string;
  readonly name: string;
}

/** The partitions that are no containers of others; none where it finds no table. */
export async function partx(path: string, sectorSize = 512): Promise<Told[]> {
  const columns = 'NR,START,SECTORS,TYPE,UUID,NAME';
  const { stdout } = await attempt('partx', [
    ...['--pairs', '--output', columns, '--sector-size', String(sectorSize)],
    path,
  ]);
  const told: Told[] = [];
  for (const line of stdout.toString().split('\n')) {
    const fields = new Map([...line.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name!, value!]));
    if (!fields.has('NR') || ['0x5', '0xf', '0x85'].includes(fields.get('TYPE')!)) continue;
    told.push({
      number: Number(fields.get('NR')),
      start: Number(fields.get('START')) * 512,
      size: Number(fields.get('SECTORS')) * 512,
      type: fields.get('TYPE')!,
      uuid: fields.get('UUID')!,
      name: fields.get('NAME')!,
    });
  }
  return told;
}

export interface File extends Partitioned {
  /** Reads so far, and their bytes. */
  readonly asked: { reads: number; bytes: number };
  close(): void;
}

export function fileOf(path: string, sectorSize: SectorSize = 512): File {
  const fd = openSync(path, 'r');
  const { size } = fstatSync(fd);
  const asked = { reads: 0, bytes: 0 };
  return {
    size,
    sectorSize,
    asked,
    async read(offset, length) {
      asked.reads++;
      asked.bytes += length;
      const bytes = Buffer.alloc(Math.max(0, Math.min(length, size - offset)));
      return bytes.subarray(0, bytes.length > 0 ? readSync(fd, bytes, 0, bytes.length, offset) : 0);
    },
    close: () => closeSync(fd),
  };
}

/** As `fileOf`, of bytes in memory. */
export function bytesOf(bytes: Buffer, sectorSize: SectorSize = 512): Partitioned & Pick<File, 'asked'> {
  const asked = { reads: 0, bytes: 0 };
  return {
    size: bytes.length,
    sectorSize,
    asked,
    read: async (offset, length) => {
      asked.reads++;
      asked.bytes += length;
      return Buffer.from(bytes.subarray(offset, offset + length));
    },
  };
}
