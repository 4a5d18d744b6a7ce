/**
 * `asof mount`. Three processes may run this command: the launcher (launch.ts), which starts a server in the
 * background and waits until it is ready; that server (server.ts); and with `--foreground` the only one.
 */
import { type Command, Option } from 'commander';
import { LOG_LEVELS, type LogLevel } from '../log.js';
import { DRIVERS, type DriverName, type OnDamage } from '../service.js';
import { type ImageFlags, imageOptions, named, withCache, withImage, withJson } from './options.js';
import { examples } from './program.js';

interface Flags extends ImageFlags {
  readonly foreground?: boolean;
  readonly allowOther?: boolean;
  readonly driver?: DriverName;
  readonly onDamage: OnDamage;
  readonly logLevel?: LogLevel;
  readonly overlay?: true | string;
  readonly verify?: boolean;
}

export function define(command: Command): void {
  withJson(withCache(withImage(command)))
    .argument('<DIR>', 'an existing directory, on which the disks are shown', named('DIR'))
    .option('-f, --foreground', 'serve from this process; Ctrl-C unmounts')
    .option('--allow-other', 'let other users in')
    .option(
      '--overlay [PATH]',
      'DIR/disk can be written: into a layer in the file PATH, which is kept, or in one that is thrown away',
      named('--overlay'),
    )
    .option('--verify', 'compare the disk with the digests that its image carries, while it is mounted')
    .addOption(
      new Option('--driver <NAME>', 'the mount driver (the first that can be used unless given)').choices(
        DRIVERS,
      ),
    )
    .addOption(
      new Option('--on-damage <WHAT>', 'how a sector reads that cannot be vouched for')
        .choices(['error', 'zero'])
        .default('error'),
    )
    .addOption(
      new Option('--log-level <LEVEL>', 'what is logged (ASOF_LOG, else warn, unless given)').choices(
        LOG_LEVELS,
      ),
    )
    .addHelpText(
      'after',
      `
  DIR/disk                      the newest point
  DIR/<moment>/disk             each point, such as DIR/2026-11-21T10-15-00Z/disk
  DIR/@<time>/disk              the newest point at or before a time; not listed
  …/info.json, …/defects.json   what it is, and which of its sectors could not be vouched for

With --overlay the image stays what it is, and so does DIR/<moment>/disk. A layer that is kept is opened again for the same
point alone; one that is thrown away lies in $TMPDIR.

With --verify all of the newest point is read in the background; "verified" in DIR/info.json has the verdict, and the log too.

The command returns when the disks can be read and leaves a server behind, which ends with the mount.
${examples(['asof mount disk.qcow2 /mnt/disk', 'asof mount monday.qcow2 /mnt/disk --search /backup/full --foreground', 'asof mount disk.qcow2 /mnt/disk --overlay=changes.layer'])}`,
    )
    .action(async (file: string, directory: string, flags: Flags) => {
      const { launcher, serve } = await import('./mount-server.js');
      if (!flags.foreground && !launcher()) {
        const { launch } = await import('./launch.js');
        await launch(process.argv.slice(2));
        return;
      }
      await serve({
        file,
        directory,
        image: { ...imageOptions(flags), onDamage: flags.onDamage },
        allowOther: flags.allowOther ?? false,
        driver: flags.driver,
        logLevel: flags.logLevel,
        overlay: flags.overlay,
        verify: flags.verify ?? false,
        json: flags.json ?? false,
      });
    });
}
