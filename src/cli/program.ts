/**
 * The program as commander knows it: every command by name, and in full the one that runs.
 */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { COMMANDS } from './commands.js';

/** The program for `argv` (without node and script). Errors of the command line are thrown as CommanderError. */
export async function program(argv: readonly string[]): Promise<Command> {
  const root = new Command('asof')
    .description(
      'Read the sectors of a disk as of a moment: disk images and their chains as read-only disks.',
    )
    .version(version(), '-V, --version', 'show the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [command]', 'show help of a command')
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .showHelpAfterError(false)
    .addHelpText(
      'after',
      examples([
        'asof mount disk.qcow2 /mnt',
        'asof points disk.qcow2',
        'asof umount /mnt',
        'asof serve --mount /srv/asof',
        'asof volume add mail /dev/vg/mail',
        'asof snapshot create mail',
      ]),
    );
  const words = argv.filter(word => !word.startsWith('-'));
  const chosen = words[0] === 'help' ? words[1] : words[0];
  for (const { name, summary, load } of COMMANDS) {
    const command = root.command(name).description(summary).helpOption('-h, --help', 'show help');
    if (name === chosen) (await load()).define(command);
  }
  return root;
}

/** The last part of every help text. */
export function examples(lines: readonly string[]): string {
  return `\nExample${lines.length > 1 ? 's' : ''}:\n${lines.map(line => `  ${line}\n`).join('')}`;
}

function version(): string {
  const manifest: unknown = JSON.parse(
    readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
  );
  return (manifest as { version: string }).version;
}
