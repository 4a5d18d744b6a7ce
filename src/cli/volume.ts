/** `asof volume`: what the daemon protects. */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { AsofError } from '../errors.js';
import type { MarkerInfo, VolumeInfo, VolumeRequest } from '../volumes.js';
import { Client } from './client.js';
import { columns, printable } from './columns.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { bothSizes, humanSize, parseSize } from './size.js';
import { type StateFlags, withState } from './state.js';

interface AddFlags extends StateFlags {
  readonly store?: string;
  readonly storeLimit?: number;
  readonly chunk?: number;
  readonly durability?: 'power' | 'process';
  readonly onCowError?: 'break-snapshot' | 'break-write';
  readonly cowTimeout?: number;
}

export function define(command: Command): void {
  command.addHelpText(
    'after',
    `
Each answers with --json as JSON too. \`asof volume add --help\` and so on say more.
${examples(['asof volume add mail /dev/vg/mail --store-limit 50G', 'asof volume list', 'asof volume remove mail'])}`,
  );
  defineAdd(command);
  defineList(command);
  defineShow(command);
  defineRemove(command);
  defineMark(command);
  defineUnmark(command);
}

function defineAdd(parent: Command): void {
  withState(parent.command('add'))
    .description('protect an origin: from now on it is written through the live device')
    .argument('<NAME>', 'how the volume is called: letters, digits, dots, dashes, underscores')
    .argument('<ORIGIN>', 'the file or block device that holds its bytes')
    .option(
      '--store <PATH>',
      'where preserved chunks go: a new file, an empty block device, or "memory" (in the state directory unless given)',
    )
    .option('--store-limit <SIZE>', 'how much it may hold, such as 50G (no limit unless given)', text =>
      parseSize(text, '--store-limit'),
    )
    .option('--chunk <SIZE>', 'the unit of copying and tracking, 4K to 2M (64K unless given)', text =>
      parseSize(text, '--chunk'),
    )
    .addOption(
      new Option(
        '--durability <WHAT>',
        'what snapshots survive: a power cut, or the end of the process only (faster)',
      ).choices(['power', 'process']),
    )
    .addOption(
      new Option('--on-cow-error <WHAT>', 'who pays when a chunk cannot be preserved').choices([
        'break-snapshot',
        'break-write',
      ]),
    )
    .option(
      '--cow-timeout <SECONDS>',
      'how long preserving may take before it counts as failed (for ever unless given)',
      seconds,
    )
    .addHelpText(
      'after',
      `\nWhat is not given is as asof options show says.\n${examples([
        'asof volume add mail /dev/vg/mail --store-limit 50G',
        'asof volume add vm /srv/vm.img --durability process',
      ])}`,
    )
    .action(async (name: string, origin: string, flags: AddFlags) => {
      const { store } = flags;
      const request: VolumeRequest = {
        name,
        origin: resolve(origin),
        ...(store === undefined ? {} : { store: store === 'memory' ? store : resolve(store) }),
        ...(flags.storeLimit === undefined ? {} : { storeLimit: flags.storeLimit }),
        ...(flags.chunk === undefined ? {} : { chunkSize: flags.chunk }),
        ...(flags.durability === undefined ? {} : { durability: flags.durability }),
        ...(flags.onCowError === undefined ? {} : { onCowError: flags.onCowError }),
        ...(flags.cowTimeout === undefined ? {} : { cowTimeoutMs: flags.cowTimeout * 1000 }),
      };
      const volume = await new Client(flags).ask<VolumeInfo>('POST', '/volumes', request);
      if (flags.json) await writeJson(volume);
      else
        await write(
          `${printable(`${volume.name} is protected; write to it through ${volume.live ?? 'its live device, once the daemon has a mount'}`)}\n`,
        );
    });
}

function seconds(text: string): number {
  const number = Number(text);
  if (/^\d+(\.\d+)?$/.test(text) && number <= 86400) return Math.round(number * 1000) / 1000;
  throw new AsofError(
    'USAGE',
    `--cow-timeout ${JSON.stringify(text)} is no number of seconds from 0 to 86400`,
  );
}

function defineList(parent: Command): void {
  withState(parent.command('list'))
    .description('every volume')
    .addHelpText('after', examples(['asof volume list']))
    .action(async (flags: StateFlags) => {
      const volumes = await new Client(flags).ask<VolumeInfo[]>('GET', '/volumes');
      if (flags.json) {
        await writeJson(volumes);
        return;
      }
      const rows = volumes.map(one => [
        one.name,
        one.state,
        humanSize(one.size),
        String(one.snapshots),
        one.storeUsed === null ? '-' : humanSize(one.storeUsed),
        one.tracking.state,
        one.why ? `${one.origin}: ${one.why}` : one.origin,
      ]);
      await write(
        columns(
          ['NAME', 'STATE', 'SIZE', 'SNAPSHOTS', 'STORE', 'TRACKING', 'ORIGIN'],
          ['<', '<', '>', '>', '>', '<', '<'],
          rows,
        ),
      );
    });
}

function defineShow(parent: Command): void {
  withState(parent.command('show'))
    .description('one volume')
    .argument('<NAME>', 'the volume')
    .addHelpText('after', examples(['asof volume show mail']))
    .action(async (name: string, flags: StateFlags) => {
      const volume = await new Client(flags).ask<VolumeInfo>('GET', `/volumes/${encodeURIComponent(name)}`);
      if (flags.json) await writeJson(volume);
      else await write(forPeople(volume));
    });
}

function forPeople(volume: VolumeInfo): string {
  const { tracking } = volume;
  const lines: [string, string][] = [
    ['name', volume.name],
    ['id', volume.id],
    ['state', volume.why ? `${volume.state}: ${volume.why}` : volume.state],
    ['origin', volume.origin],
    ['size', bothSizes(volume.size)],
    ['sector size', String(volume.sectorSize)],
    ['live', volume.live ?? '-'],
    ['chunk', bothSizes(volume.chunkSize)],
    ['durability', volume.durability],
    ['on error', volume.onCowError],
    ['timeout', volume.cowTimeoutSeconds > 0 ? `${volume.cowTimeoutSeconds} s` : 'none'],
    ['store', volume.store ?? 'in memory'],
    ['store limit', volume.storeLimit > 0 ? bothSizes(volume.storeLimit) : 'none'],
    ['store used', volume.storeUsed === null ? '-' : bothSizes(volume.storeUsed)],
    ['snapshots', String(volume.snapshots)],
    ['tracking', tracking.why ? `${tracking.state}: ${tracking.why}` : tracking.state],
    ['added', volume.added],
    ...volume.consumers.map((one): [string, string] => ['consumer', consumerLine(one)]),
    ...volume.events.map((event): [string, string] => [
      'event',
      [event.kind, event.snapshot, event.why].filter(Boolean).join(': '),
    ]),
  ];
  return lines.map(([name, value]) => `${`${name.padEnd(13)}${printable(value)}`.trimEnd()}\n`).join('');
}

function consumerLine({ consumer, snapshot, at, state, why }: MarkerInfo): string {
  return `${consumer} has ${snapshot} of ${at}${state === 'unknown' ? `; what changed since is unknown: ${why}` : ''}`;
}

function defineRemove(parent: Command): void {
  withState(parent.command('remove'))
    .description('protect it no longer; the origin keeps its bytes of now')
    .argument('<NAME>', 'the volume')
    .option('--force', 'although it has snapshots, which go too')
    .addHelpText('after', examples(['asof volume remove mail --force']))
    .action(async (name: string, flags: StateFlags & { readonly force?: boolean }) => {
      const path = `/volumes/${encodeURIComponent(name)}?force=${flags.force ?? false}`;
      const volume = await new Client(flags).ask<VolumeInfo>('DELETE', path);
      if (flags.json) await writeJson(volume);
      else
        await write(
          `${printable(`${volume.name} is protected no longer; its bytes are in ${volume.origin}`)}\n`,
        );
    });
}

function defineMark(parent: Command): void {
  withState(parent.command('mark'))
    .description('a consumer, such as a backup, has that snapshot: asof changes --consumer tells what is new')
    .argument('<NAME>', 'the volume')
    .argument('<CONSUMER>', 'who: letters, digits, dots, dashes, underscores')
    .argument('<ID>', 'the snapshot; it may be deleted before or after')
    .addHelpText('after', examples(['asof volume mark mail nightly 3f2c91d0']))
    .action(async (name: string, consumer: string, id: string, flags: StateFlags) => {
      const marker = await new Client(flags).ask<MarkerInfo>('PUT', consumerPath(name, consumer), {
        snapshot: id,
      });
      if (flags.json) await writeJson(marker);
      else await write(`${printable(consumerLine(marker))}\n`);
    });
}

function defineUnmark(parent: Command): void {
  withState(parent.command('unmark'))
    .description('forget a consumer')
    .argument('<NAME>', 'the volume')
    .argument('<CONSUMER>', 'who')
    .addHelpText('after', examples(['asof volume unmark mail nightly']))
    .action(async (name: string, consumer: string, flags: StateFlags) => {
      const marker = await new Client(flags).ask<MarkerInfo>('DELETE', consumerPath(name, consumer));
      if (flags.json) await writeJson(marker);
      else await write(`${printable(marker.consumer)} is forgotten\n`);
    });
}

function consumerPath(name: string, consumer: string): string {
  return `/volumes/${encodeURIComponent(name)}/consumers/${encodeURIComponent(consumer)}`;
}
