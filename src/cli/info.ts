/** `asof info`: the image, the chain that it stands on, and the partitions of its newest point. */
import type { Command } from 'commander';
import { AsofError } from '../errors.js';
import { type ImageInfo, OpenedImage, type PartitionsInfo } from '../service.js';
import { counted, printable } from './columns.js';
import { type ImageFlags, imageOptions, withImage, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { bothSizes } from './size.js';

export function define(command: Command): void {
  withJson(withImage(command))
    .addHelpText('after', examples(['asof info monday.qcow2 --search /backup/full']))
    .action(async (file: string, flags: ImageFlags) => {
      const image = new OpenedImage(file, imageOptions(flags));
      try {
        const info = image.info();
        const partitions = await partitionsOf(image);
        if (flags.json) await writeJson({ ...info, ...partitions });
        else await write(forPeople(info) + (partitions ? partitionsForPeople(partitions) : ''));
      } finally {
        image.close();
      }
    });
}

/** undefined without the addon, which reads what the partitions hold. */
async function partitionsOf(image: OpenedImage): Promise<PartitionsInfo | undefined> {
  try {
    return await image.partitions(image.newest).info();
  } catch (error) {
    if (error instanceof AsofError && error.code === 'ADDON_MISSING') return undefined;
    throw error;
  }
}

function partitionsForPeople(info: PartitionsInfo): string {
  const { partitionTable, partitions, partitionDefects, fileSystem } = info;
  const lines: string[][] = [];
  if (fileSystem) lines.push(['holds', held(fileSystem)]);
  if (partitionTable) lines.push(['partitions', `${partitions.length} (${partitionTable.kind})`]);
  for (const { file, length, typeName, type, name, fileSystem, trouble } of partitions) {
    const what = trouble || (fileSystem ? held(fileSystem) : typeName || type);
    lines.push([`  ${file}`, [bothSizes(length), what, name && `named ${name}`].filter(Boolean).join(', ')]);
  }
  for (const defect of partitionDefects) lines.push(['  defect', defect]);
  return lines.length === 0 ? '' : `\n${rows(lines)}`;
}

function held({ type, version, label, uuid }: NonNullable<PartitionsInfo['fileSystem']>): string {
  const kind = version === '' || version === type ? type : `${type} (${version})`;
  return [kind, label && `"${label}"`, uuid].filter(Boolean).join(' ');
}

function rows(lines: readonly string[][]): string {
  return lines.map(([name, value]) => `${`${name!.padEnd(13)}${printable(value!)}`.trimEnd()}\n`).join('');
}

function forPeople(info: ImageInfo): string {
  const lines = [
    ['image', info.path],
    ['format', info.format],
    ['size', bothSizes(info.size)],
    ['sector size', String(info.sectorSize)],
    ['points', String(info.points.length)],
    ['chain', `${counted(info.members.length, 'member')}${info.members.length > 1 ? ', newest first' : ''}`],
  ];
  info.members.forEach((member, i) => {
    lines.push(['', ''], [`member ${i + 1}`, member.path], ['  format', member.format]);
    lines.push(['  size', bothSizes(member.size)], ['  file', bothSizes(member.fileSize)]);
    lines.push(['  written', member.modified], ['  identity', member.identity]);
    if (member.features.length > 0) lines.push(['  features', member.features.join(', ')]);
    if (member.snapshots > 0) lines.push(['  snapshots', String(member.snapshots)]);
    if (member.parent !== null) {
      lines.push(['  parent', `${member.parent} (${member.parentFormat ?? 'format not stated'})`]);
    }
    if (member.dataFile !== null) lines.push(['  data file', member.dataFile]);
    for (const [name, value] of Object.entries(member.metadata)) lines.push([`  ${name}`, value]);
    for (const trouble of member.troubles) lines.push(['  trouble', trouble]);
  });
  return rows(lines);
}
