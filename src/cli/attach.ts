/** `asof attach`: a point as a drive, with its file systems on a folder; `--list` says what is attached. */
import type { Command } from 'commander';
import type { Attached, Attachment, Listed } from '../attach.js';
import { AsofError } from '../errors.js';
import type { PartitionsInfo } from '../partition-tree.js';
import { columns, printable } from './columns.js';
import { type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';

interface Flags extends JsonFlag {
  readonly list?: boolean;
  readonly partition?: number;
  readonly volume?: string;
  readonly search?: readonly string[];
  readonly format?: string;
}

export function define(command: Command): void {
  withJson(command)
    .argument(
      '[POINT]',
      'an image, a history or a file of it, with @ID or @TIME behind; or a disk in a mount',
      named('POINT'),
    )
    .argument('[DIR]', 'an empty folder on which its file systems are mounted', named('DIR'))
    .option('--list', 'what is attached, and who is using it')
    .option('--partition <N>', 'mount only the file system of this partition', partitionNumber)
    .option('--volume <NAME>', 'of a history with more than one volume')
    .option(
      '--search <DIR>',
      'a folder in which parents may be found, after that of the image; repeatable',
      (folder: string, before: readonly string[] = []) => [...before, named('--search')(folder)],
    )
    .option('--format <NAME>', 'the format of an image (recognised unless given)')
    .addHelpText(
      'after',
      `
The disk of the point becomes a read-only loop device with its partitions, which takes root. With DIR its file systems are
mounted read-only, and no journal is replayed: on DIR, or where there are several on DIR/p1, DIR/p2 and so on. Without root
ext, NTFS, FAT and exFAT are mounted by FUSE programs, and there is no device.

asof detach takes it away again; so does asof umount of the mount that it stands on.
${examples(['asof attach /backup/data@2026-11-24 /mnt/tuesday', 'asof attach disk.qcow2', 'asof attach --list'])}`,
    )
    .action(async (point: string | undefined, dir: string | undefined, flags: Flags) => {
      if (flags.list) {
        if (point !== undefined) throw new AsofError('USAGE', '--list takes no POINT', 'asof attach --list');
        const { listAttached } = await import('../attach.js');
        const all = await listAttached();
        if (flags.json) await writeJson(all.map(listed));
        else await write(table(all));
        return;
      }
      if (point === undefined) throw new AsofError('USAGE', 'POINT is missing', 'asof attach --help');
      const { attach } = await import('../attach.js');
      const stopped = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
        process.once(signal, () => stopped.abort());
      const { partition, volume, search, format } = flags;
      const done = await attach(point, dir, { partition, volume, search, format, signal: stopped.signal });
      if (flags.json) await writeJson(told(done));
      else await write(forPeople(done));
    });
}

function partitionNumber(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new AsofError('USAGE', `--partition is ${JSON.stringify(text)}; allowed are whole numbers from 1 on`);
}

/** What is told of an attachment; docs/cli.md has it. */
function facts({ asked, device, dir, disk, mountPoint, partitions, fileSystems, point }: Attachment) {
  return { point, asked, device, dir, disk, mountPoint, partitions, fileSystems };
}

function told({ attachment, info, troubles }: Attached) {
  return { ...facts(attachment), ...info, partitionDevices: attachment.partitions, troubles };
}

function listed({ attachment, users }: Listed) {
  return { ...facts(attachment), users };
}

function forPeople({ attachment, info, troubles }: Attached): string {
  const { device, fileSystems, partitions, dir } = attachment;
  const mountedOn = (number: number | null) =>
    fileSystems.find(one => one.number === number)?.mountPoint ?? '';
  const rows: string[][] = [];
  const { fileSystem } = info;
  const whole = mountedOn(null);
  if (device !== null || whole !== '') rows.push([device ?? 'disk', '', said(fileSystem), whole]);
  for (const { number, file, length, fileSystem } of info.partitions) {
    const own = partitions.find(one => one.number === number)?.device;
    const at = mountedOn(number);
    if (own !== undefined || at !== '') rows.push([own ?? file, humanSize(length), said(fileSystem), at]);
  }
  const notes = [...info.partitionDefects, ...troubles].map(one => `note: ${printable(one)}\n`);
  return `${columns(['DEVICE', 'SIZE', 'HOLDS', 'MOUNTED ON'], ['<', '>', '<', '<'], rows)}${notes.join('')}${printable(`asof detach ${device ?? dir} takes it away`)}\n`;
}

function said(content: PartitionsInfo['fileSystem']): string {
  if (!content) return '';
  return content.label === '' ? content.type : `${content.type} "${content.label}"`;
}

function table(all: readonly Listed[]): string {
  const rows = all.map(({ attachment, users }) => {
    const { asked, device, dir, point, fileSystems } = attachment;
    const on = fileSystems.length > 0 ? dir : null;
    const by = users.map(({ command, pid }) => `${command} (${pid})`).join(', ');
    return [device ?? '-', asked, point.time.slice(0, 19).replace('T', ' '), on ?? '-', by || '-'];
  });
  return columns(['DEVICE', 'POINT', 'TIME', 'MOUNTED ON', 'USED BY'], ['<', '<', '<', '<', '<'], rows);
}
