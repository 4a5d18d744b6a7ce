/** `asof umount`: ends a mount, and returns when its server has gone. */
import { resolve } from 'node:path';
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
    .argument('<DIR>', 'the directory of the mount', named('DIR'))
    .option('-l, --lazy', 'detach it now although it is in use; it ends when the last user lets go')
    .addHelpText('after', examples(['asof umount /mnt/disk']))
    .action(async (directory: string, flags: Flags) => {
      const { unmount } = await import('../service.js');
      const mountPoint = resolve(directory);
      const waits = (what: string) => process.stderr.write(`asof: ${printable(what)}; waiting\n`);
      await unmount(mountPoint, { lazy: flags.lazy ?? false, ...(flags.json ? {} : { waits }) });
      if (flags.json) await writeJson({ mountPoint, unmounted: true });
      else await write(`${printable(`${mountPoint} is unmounted`)}\n`);
    });
}
