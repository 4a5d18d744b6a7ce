/** `asof serve`: the daemon, in the foreground until a signal stops it. systemd/asof.service starts it as a service. */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { AsofError } from '../errors.js';
import { createLog, LOG_LEVELS, type LogLevel } from '../log.js';
import { DRIVERS, type DriverName } from '../service.js';
import { counted, printable } from './columns.js';
import { readConfig } from './config.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { type StateFlags, stateFolder, withState } from './state.js';

interface Flags extends StateFlags {
  readonly config?: string;
  readonly mount?: string;
  readonly allowOther?: boolean;
  readonly driver?: DriverName;
  readonly logLevel?: LogLevel;
}

export function define(command: Command): void {
  withState(command)
    .option('--config <FILE>', 'settings as YAML (docs/config.md); what is said here as well counts more')
    .option('--mount <DIR>', 'an existing directory, on which the volumes are shown (nowhere unless given)')
    .option('--allow-other', 'let other users read what is shown; live devices stay the own user’s')
    .addOption(new Option('--driver <NAME>', 'the mount driver').choices(DRIVERS))
    .addOption(
      new Option('--log-level <LEVEL>', 'what is logged to standard error (ASOF_LOG, else info)').choices(
        LOG_LEVELS,
      ),
    )
    .addHelpText(
      'after',
      `
  DIR/volumes/NAME/live            the volume, read-write; every write passes the copy-on-write layer
  DIR/volumes/NAME/<moment>/disk   each snapshot, read-only
  DIR/volumes/NAME/<moment>/overlay   a writable view of it, where asof snapshot overlay has made one
  DIR/volumes/NAME/@<time>/disk    the newest snapshot at or before a time; not listed

The file may also name options, volumes that are added at the start, groups and schedules. A signal stops the daemon
cleanly, as soon as nobody is in the mount; a second one does not wait.
${examples(['asof serve --state /var/lib/asof --mount /srv/asof', 'asof serve --config /etc/asof.yaml'])}`,
    )
    .action(async (flags: Flags) => {
      const config = flags.config === undefined ? undefined : readConfig(flags.config);
      const settings = { ...config, ...flags };
      // biome-ignore lint/style/noRestrictedImports: this command is the daemon
      const { runDaemon } = await import('../server/daemon.js');
      const options = {
        state: stateFolder(settings.state),
        mount: settings.mount === undefined ? undefined : resolve(settings.mount),
        allowOther: settings.allowOther ?? false,
        driver: settings.driver,
        ...(config && {
          defaults: config.defaults,
          declared: config.volumes,
          groups: config.groups,
          schedules: config.schedules,
          policies: config.policies,
        }),
        log: createLog(levelOf(settings.logLevel)),
      };
      // It must not stand in its own mount, nor keep a directory that somebody wants to unmount.
      process.chdir('/');
      await runDaemon(options, async ready => {
        if (flags.json) await writeJson(ready);
        else {
          const shown = ready.mount === null ? '' : `, shown on ${ready.mount}`;
          await write(
            `${printable(`ready on ${ready.socket}: ${counted(ready.volumes, 'volume')}${shown}`)}\n`,
          );
        }
      });
    });
}

function levelOf(setting: LogLevel | undefined): LogLevel {
  const text = setting ?? process.env['ASOF_LOG'] ?? 'info';
  const level = LOG_LEVELS.find(one => one === text);
  if (level) return level;
  throw new AsofError('USAGE', `ASOF_LOG is ${JSON.stringify(text)}; allowed are ${LOG_LEVELS.join(', ')}`);
}
