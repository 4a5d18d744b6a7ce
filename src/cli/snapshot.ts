/** `asof snapshot`: moments of volumes. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { AsofError, EXIT } from '../errors.js';
import type { ShownSnapshot, SnapshotInfo, SnapshotOverlay, TakenSnapshot } from '../volumes.js';
import { Client } from './client.js';
import { columns, counted, printable } from './columns.js';
import { humanNanoseconds } from './duration.js';
import { describeMoment, type MomentFlags, momentBody, withMoment } from './moment.js';
import { named } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { type StateFlags, withState } from './state.js';

export function define(command: Command): void {
  command.addHelpText(
    'after',
    `
An id may be cut short where it stays unique; the id of a group stands for all of its snapshots. With --json the answers
are JSON.
${examples(['asof snapshot create mail db', 'asof snapshot list', 'asof snapshot delete 3f2c91d0'])}`,
  );
  defineCreate(command);
  defineList(command);
  defineShow(command);
  defineDelete(command);
  defineOverlay(command);
}

function defineCreate(parent: Command): void {
  withMoment(withState(parent.command('create')))
    .description('one moment of one or more volumes')
    .argument(
      '<VOLUME...>',
      'the volumes, all of them at the same moment; @NAME is a group of the configuration',
    )
    .option(
      '--provider <NAME,…>',
      'what takes it, in the order in which they are tried: cow, reflink, lvm, btrfs, none (what the configuration says, else cow,reflink, unless given); repeatable',
      (text: string, before: readonly string[] = []) => [...before, ...providersOf(text)],
    )
    .addHelpText(
      'after',
      `\nWhat is not given is as asof options show says.\n${examples([
        'asof snapshot create mail db',
        'asof snapshot create @db',
        'asof snapshot create mail --provider lvm,cow',
        'asof snapshot create db --writer postgresql:host=/run/postgresql,user=postgres',
        'asof snapshot create mail --quiet 5 --quiet-missed crash',
      ])}`,
    )
    .action(
      async (
        volumes: string[],
        flags: StateFlags & MomentFlags & { readonly provider?: readonly string[] },
      ) => {
        const { provider: providers } = flags;
        const body = { volumes, ...(providers === undefined ? {} : { providers }), ...momentBody(flags) };
        const made = await new Client(flags).ask<TakenSnapshot[]>('POST', '/snapshots', body);
        if (flags.json) await writeJson(made);
        else await write(table(made));
        const warnings = new Set(made.flatMap(one => one.warnings ?? []));
        const marks = new Set(made.flatMap(one => one.marks ?? []));
        for (const { id, why } of made.filter(({ state }) => state === 'none')) {
          process.stderr.write(`asof: ${id}: ${printable(why)}\n`);
        }
        for (const warning of warnings) process.stderr.write(`asof: ${printable(warning)}\n`);
        for (const mark of marks) process.stderr.write(`asof: ${printable(mark)}\n`);
        // It is there, and yet its job is not as it should be.
        if (marks.size > 0) process.exitCode = EXIT.defects;
      },
    );
}

function defineList(parent: Command): void {
  withState(parent.command('list'))
    .description('every snapshot, oldest first')
    .argument('[VOLUME]', 'of this volume only')
    .addHelpText('after', examples(['asof snapshot list mail']))
    .action(async (volume: string | undefined, flags: StateFlags) => {
      const query = volume === undefined ? '' : `?volume=${encodeURIComponent(volume)}`;
      const snapshots = await new Client(flags).ask<SnapshotInfo[]>('GET', `/snapshots${query}`);
      if (flags.json) await writeJson(snapshots);
      else await write(table(snapshots));
    });
}

function table(snapshots: readonly SnapshotInfo[]): string {
  const rows = snapshots.map(one => [
    one.id,
    one.volume,
    one.moment,
    one.provider,
    one.consistency,
    humanNanoseconds(one.holdNs),
    stateOf(one),
  ]);
  return columns(
    ['ID', 'VOLUME', 'MOMENT', 'PROVIDER', 'CONSISTENCY', 'HELD', 'STATE'],
    ['<', '<', '<', '<', '<', '>', '<'],
    rows,
  );
}

function stateOf(one: SnapshotInfo): string {
  const is = one.temporary ? `${one.state} while its lease lasts` : one.state;
  const state = one.why ? `${is}: ${one.why}` : is;
  return one.groupWhy ? `${state}; its group is incomplete: ${one.groupWhy}` : state;
}

export function providersOf(text: string): string[] {
  const names = text.split(',').map(name => name.trim());
  if (names.every(name => name !== '')) return names;
  throw new AsofError(
    'USAGE',
    `--provider ${JSON.stringify(text)} has an empty name`,
    '--provider cow,reflink',
  );
}

function defineShow(parent: Command): void {
  withState(parent.command('show'))
    .description('one snapshot, or those of a group')
    .argument('<ID>', 'its id, or the group’s')
    .addHelpText('after', examples(['asof snapshot show 3f2c91d0']))
    .action(async (id: string, flags: StateFlags) => {
      const found = await new Client(flags).ask<ShownSnapshot[]>(
        'GET',
        `/snapshots/${encodeURIComponent(id)}`,
      );
      if (flags.json) await writeJson(found);
      else await write(found.map(forPeople).join('\n'));
    });
}

function forPeople(one: ShownSnapshot): string {
  const alone = one.group === one.id;
  const lines: [string, string][] = [
    ['id', one.id],
    ['volume', one.volume],
    ['group', alone ? '-' : `${one.group}, of ${counted(one.groupSize, 'volume')}`],
    ['moment', one.moment],
    ['time', one.at],
    ['provider', one.provider],
    ['consistency', one.consistency],
    ['held', `${humanNanoseconds(one.holdNs)}, of it the switch ${humanNanoseconds(one.switchNs)}`],
    ...(one.overlay ? [['overlay', one.overlay.file ?? 'thrown away at the end'] as [string, string]] : []),
    ['state', one.why ? `${one.state}: ${one.why}` : one.state],
    ...(one.groupWhy ? [['group is', `incomplete: ${one.groupWhy}`] as [string, string]] : []),
  ];
  const told = lines.map(([name, value]) => `${name.padEnd(13)}${printable(value)}\n`).join('');
  return one.record ? `${told}${describeMoment(one.record)}` : told;
}

function defineDelete(parent: Command): void {
  withState(parent.command('delete'))
    .description('delete a snapshot, or those of a group')
    .argument('<ID>', 'its id, or the group’s')
    .option('--force', 'also while somebody reads it, who then meets errors')
    .addHelpText('after', examples(['asof snapshot delete 3f2c91d0']))
    .action(async (id: string, flags: StateFlags & { readonly force?: boolean }) => {
      const gone = await new Client(flags).ask<SnapshotInfo[]>(
        'DELETE',
        `/snapshots/${encodeURIComponent(id)}${flags.force ? '?force=true' : ''}`,
      );
      if (flags.json) await writeJson(gone);
      else await write(`${counted(gone.length, 'snapshot')} deleted\n`);
    });
}

function defineOverlay(parent: Command): void {
  withState(parent.command('overlay'))
    .description(
      'a writable view of a snapshot, for what must replay its journal; the snapshot stays what it is',
    )
    .argument('<ID>', 'its id')
    .argument(
      '[PATH]',
      'the file that keeps what is written; made, or opened again (thrown away unless given)',
      named('PATH'),
    )
    .option('--drop', 'take it away; refused while somebody has it open')
    .addHelpText(
      'after',
      examples([
        'asof snapshot overlay 3f2c91d0',
        'asof snapshot overlay 3f2c91d0 /srv/test.layer',
        'asof snapshot overlay 3f2c91d0 --drop',
      ]),
    )
    .action(async (id: string, path: string | undefined, flags: StateFlags & { readonly drop?: boolean }) => {
      const client = new Client(flags);
      const route = `/snapshots/${encodeURIComponent(id)}/overlay`;
      if (flags.drop) {
        if (path !== undefined)
          throw new AsofError('USAGE', '--drop takes no PATH', 'asof snapshot overlay ID --drop');
        const snapshot = await client.ask<SnapshotInfo>('DELETE', route);
        if (flags.json) await writeJson(snapshot);
        else await write('the overlay is dropped\n');
        return;
      }
      const body = path === undefined ? {} : { layer: resolve(path) };
      const made = await client.ask<SnapshotOverlay>('POST', route, body);
      if (flags.json) await writeJson(made);
      else await write(`${printable(made.path)}\n`);
    });
}
