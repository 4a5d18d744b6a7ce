/** `asof compare`: the runs in which two points differ. */
import type { Command } from 'commander';
import { EXIT } from '../errors.js';
import { OpenedImage } from '../service.js';
import { line, printable } from './columns.js';
import { type ImageFlags, imageOptions, withCache, withImage, withJson } from './options.js';
import { JsonArray, write } from './output.js';
import { examples } from './program.js';
import { Progress } from './progress.js';

export function define(command: Command): void {
  withJson(withCache(withImage(command)))
    .argument('<A>', 'a point: id, name, moment or @TIME')
    .argument('<B>', 'another')
    .addHelpText(
      'after',
      `
A line a run: where it starts, how long it is, and whether its bytes are different, lie behind the end of the other
disk (only-a, only-b), or cannot be vouched for in one of them (unreadable; the exit status is then 3). Points that
differ are no failure: the exit status is 0.
${examples(['asof compare disk.qcow2 before-upgrade disk.qcow2', 'asof compare disk.qcow2 @2026-11-01 @2026-11-08 --json'])}`,
    )
    .action(async (file: string, a: string, b: string, flags: ImageFlags) => {
      const image = new OpenedImage(file, imageOptions(flags));
      try {
        const [one, other] = [image.point(a), image.point(b)];
        const size = Math.max(one.size, other.size);
        const width = Math.max(6, String(size).length);
        const row = (...cells: string[]) => write(line(cells, ['>', '>', '<'], [width, width, 0]));
        const array = flags.json ? new JsonArray() : undefined;
        const progress = new Progress('comparing', size);
        if (!array) await row('START', 'LENGTH', 'KIND');
        for await (const { kind, offset, length, why } of image.compare(one, other)) {
          if (kind === 'unreadable') process.exitCode = EXIT.defects;
          progress.end();
          if (array) await array.add({ start: offset, length, kind, ...(why === undefined ? {} : { why }) });
          else
            await row(
              String(offset),
              String(length),
              why === undefined ? kind : `${kind}: ${printable(why)}`,
            );
          progress.at(offset + length);
        }
        progress.end();
        await array?.end();
      } finally {
        image.close();
      }
    });
}
