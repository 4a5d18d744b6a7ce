/** `asof points`: every moment that can be opened, newest first. */
import type { Command } from 'commander';
import { OpenedImage } from '../service.js';
import { columns } from './columns.js';
import { type ImageFlags, imageOptions, withImage, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';

export function define(command: Command): void {
  withJson(withImage(command))
    .addHelpText('after', examples(['asof points disk.qcow2', 'asof points disk.qcow2 --json']))
    .action(async (file: string, flags: ImageFlags) => {
      const image = new OpenedImage(file, imageOptions(flags));
      try {
        const all = image.points.map(point => image.pointInfo(point));
        if (flags.json) {
          await writeJson(all);
          return;
        }
        const rows = all.map(({ id, name, kind, moment, size }) => [
          id,
          name,
          kind,
          moment,
          String(size),
          humanSize(size),
        ]);
        await write(
          columns(['ID', 'NAME', 'KIND', 'MOMENT', 'BYTES', ''], ['<', '<', '<', '<', '>', '>'], rows),
        );
      } finally {
        image.close();
      }
    });
}
