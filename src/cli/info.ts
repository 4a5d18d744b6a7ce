/** `asof info`: the image and the chain that it stands on. */
import type { Command } from 'commander';
import { type ImageInfo, OpenedImage } from '../service.js';
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
        if (flags.json) await writeJson(info);
        else await write(forPeople(info));
      } finally {
        image.close();
      }
    });
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
  return lines.map(([name, value]) => `${`${name!.padEnd(13)}${printable(value!)}`.trimEnd()}\n`).join('');
}
