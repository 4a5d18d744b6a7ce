/** `asof detach`: takes away what `asof attach` has made, and returns when it has gone. */
import type { Command } from 'commander';
import { printable } from './columns.js';
import { type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';

interface Flags extends JsonFlag {
  readonly lazy?: boolean;
}

export function define(command: Command): void {
  withJson(command)
    .argument('<WHAT>', 'a device, a folder, or a point as it was attached', named('WHAT'))
    .option('-l, --lazy', 'detach it now although it is in use; it ends when the last user lets go')
    .addHelpText('after', examples(['asof detach /mnt/tuesday', 'asof detach /dev/loop3']))
    .action(async (what: string, flags: Flags) => {
      const { detach } = await import('../attach.js');
      const gone = await detach(what, { lazy: flags.lazy ?? false });
      if (flags.json) {
        await writeJson(
          gone.map(({ asked, device, dir, point }) => ({ point, asked, device, dir, detached: true })),
        );
        return;
      }
      for (const { asked, device, dir } of gone) {
        const names = [device, dir].filter(name => name !== null).join(', ');
        await write(`${printable(`${asked} is detached (${names})`)}\n`);
      }
    });
}
