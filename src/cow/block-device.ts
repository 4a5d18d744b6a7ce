/**
 * What sysfs says of a block device: its size, what it is, who holds it, how much was written to it since it appeared.
 * Documentation/ABI/stable/sysfs-block, Documentation/block/stat.rst.
 */
import { realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { list, text } from '../sysfs.js';

export interface BlockDevice {
  /** "8:1". */
  readonly number: string;
  /** "sda1". */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  /** What outlives a restart: a serial number, a device-mapper UUID, the file behind a loop device; '' where nothing does. */
  readonly identity: string;
  /** The whole disk of a partition, else itself: "sda". */
  readonly disk: string;
  readonly holders: readonly string[];
}

/** Of stat(2)'s `rdev`. Throws where sysfs does not know it. */
export function blockDevice(rdev: bigint): BlockDevice {
  const number = deviceNumber(rdev);
  const folder = realpathSync(`/sys/dev/block/${number}`);
  const partition = text(join(folder, 'partition')) !== '';
  const disk = partition ? dirname(folder) : folder;
  const names = partition
    ? [folder]
    : [folder, ...subfolders(folder).filter(one => text(join(one, 'partition')) !== '')];
  const start = text(join(folder, 'start'));
  return {
    number,
    name: basename(folder),
    size: Number(text(join(folder, 'size'))) * 512,
    sectorSize: text(join(disk, 'queue/logical_block_size')) === '4096' ? 4096 : 512,
    identity: [identityOf(disk), start && `from sector ${start}`].filter(part => part !== '').join(', '),
    disk: basename(disk),
    holders: names.flatMap(one => list(join(one, 'holders'))),
  };
}

export function deviceNumber(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xfff00n);
  return `${major}:${minor}`;
}

/**
 * Sectors that the device was written and discarded since it appeared: with the sequence number of that appearance, so that
 * two texts are equal only if nothing was written in between. '' where the kernel has no such number (before 5.15). Not the
 * writes: a flush counts as one, which whoever only looks may send (e2fsck -n), and a write counts after its end was told.
 */
export function written(device: BlockDevice): { readonly own: string; readonly disk: string } {
  const sequence = text(`/sys/block/${device.disk}/diskseq`);
  if (sequence === '') return { own: '', disk: '' };
  const of = (path: string) => {
    // Reads are fields 1 to 4, writes 5 to 8 (the third of each is in sectors), discards 12 to 15.
    const fields = text(path).split(/\s+/);
    return `${sequence}/${fields[6]}/${fields[13] ?? 0}`;
  };
  const disk = of(`/sys/block/${device.disk}/stat`);
  return { own: of(`/sys/dev/block/${device.number}/stat`), disk };
}

function identityOf(disk: string): string {
  const known = [
    ['dm/uuid', 'device-mapper '],
    ['md/uuid', 'md '],
    ['wwid', ''],
    ['device/wwid', ''],
    ['device/serial', 'serial '],
    ['serial', 'serial '],
    ['loop/backing_file', 'a loop device on '],
  ] as const;
  for (const [name, kind] of known) {
    const value = text(join(disk, name));
    if (value !== '') return kind + value;
  }
  return '';
}

function subfolders(path: string): string[] {
  return list(path).map(name => join(path, name));
}

/** Loop devices whose file is `path`: "/dev/loop3". */
export function loopsOn(path: string): string[] {
  return list('/sys/block')
    .filter(name => name.startsWith('loop') && text(`/sys/block/${name}/loop/backing_file`) === path)
    .map(name => `/dev/${name}`);
}
