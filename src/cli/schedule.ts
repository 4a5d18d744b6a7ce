/** `asof schedule`: when the daemon takes snapshots by itself. Schedules are named in its configuration file alone. */
import type { Command } from 'commander';
import { EXIT } from '../errors.js';
import type { RunInfo, ScheduleInfo } from '../volumes.js';
import { Client } from './client.js';
import { columns, counted, printable } from './columns.js';
import { humanSeconds } from './duration.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { type StateFlags, withState } from './state.js';

export function define(command: Command): void {
  command.addHelpText(
    'after',
    `
Schedules are named in the configuration of the daemon (docs/config.md). EXPOSED is how long ago the last good point of a
volume is: what would be lost now. POINT is the point of the history that the last backup made. With --json the answers are JSON.
${examples(['asof schedule list', 'asof schedule run nightly', 'asof schedule pause nightly'])}`,
  );
  withState(command.command('list'))
    .description('every schedule: its next run, its last one and how that ended, and what would be lost now')
    .addHelpText('after', examples(['asof schedule list']))
    .action(async (flags: StateFlags) => {
      const all = await new Client(flags).ask<ScheduleInfo[]>('GET', '/schedules');
      if (flags.json) await writeJson(all);
      else await write(table(all));
      tellTrouble(all);
    });
  withState(command.command('show'))
    .description('one schedule')
    .argument('<NAME>', 'the schedule')
    .addHelpText('after', examples(['asof schedule show nightly']))
    .action(async (name: string, flags: StateFlags) => {
      await one(flags, 'GET', name);
    });
  withState(command.command('run'))
    .description('run it now, and wait for it; ends with 3 where a command after the moment failed')
    .argument('<NAME>', 'the schedule, paused or not')
    .addHelpText('after', examples(['asof schedule run nightly']))
    .action(async (name: string, flags: StateFlags) => {
      const told = await one(flags, 'POST', name, '/run');
      if (told.last?.outcome === 'marked') process.exitCode = EXIT.defects;
    });
  withState(command.command('pause'))
    .description('let it run no more by itself, also after a restart')
    .argument('<NAME>', 'the schedule')
    .addHelpText('after', examples(['asof schedule pause nightly']))
    .action(async (name: string, flags: StateFlags) => {
      await one(flags, 'POST', name, '/pause');
    });
  withState(command.command('resume'))
    .description('let it run again; what would have run meanwhile is not made up for')
    .argument('<NAME>', 'the schedule')
    .addHelpText('after', examples(['asof schedule resume nightly']))
    .action(async (name: string, flags: StateFlags) => {
      await one(flags, 'POST', name, '/resume');
    });
}

async function one(
  flags: StateFlags,
  method: 'GET' | 'POST',
  name: string,
  what = '',
): Promise<ScheduleInfo> {
  const told = await new Client(flags).ask<ScheduleInfo>(
    method,
    `/schedules/${encodeURIComponent(name)}${what}`,
  );
  if (flags.json) await writeJson(told);
  else await write(forPeople(told));
  tellTrouble([told]);
  return told;
}

function tellTrouble(all: readonly ScheduleInfo[]): void {
  const trouble = all[0]?.trouble;
  if (trouble) process.stderr.write(`asof: ${printable(trouble)}\n`);
}

function table(all: readonly ScheduleInfo[]): string {
  const rows = all.map(one => [
    one.name,
    one.volumes.join(','),
    one.timing,
    one.next ?? one.state,
    one.last === null ? '-' : one.last.started,
    one.last === null ? '-' : outcomeOf(one.last),
    (one.last?.points ?? []).map(({ id }) => id.slice(0, 8)).join(',') || '-',
    worst(one),
  ]);
  return columns(
    ['NAME', 'VOLUMES', 'WHEN', 'NEXT', 'LAST', 'OUTCOME', 'POINT', 'EXPOSED'],
    ['<', '<', '<', '<', '<', '<', '<', '<'],
    rows,
  );
}

function outcomeOf({ outcome, why }: RunInfo): string {
  return why ? `${outcome}: ${why}` : outcome;
}

function worst({ exposure }: ScheduleInfo): string {
  const none = exposure.find(({ seconds }) => seconds === null);
  if (none) return `${none.volume}: no point`;
  const [most] = [...exposure].sort((a, b) => b.seconds! - a.seconds!);
  return most ? humanSeconds(most.seconds!) : '-';
}

function forPeople(one: ScheduleInfo): string {
  const { last, lastGood, skipped } = one;
  const lines: [string, string][] = [
    ['name', one.name],
    ['volumes', one.volumes.join(', ')],
    ['when', one.timing],
    ['state', one.state],
    ['next', one.next ?? '-'],
    ['last', last === null ? '-' : runLine(last)],
    ...(lastGood && lastGood.job !== last?.job ? [['last good', runLine(lastGood)] as [string, string]] : []),
    ...(one.failures > 0
      ? [['failed', `${counted(one.failures, 'time')} in a row`] as [string, string]]
      : []),
    ...(skipped
      ? [['skipped', `${counted(one.skips, 'time')}, ${skipped.slot}: ${skipped.why}`] as [string, string]]
      : []),
    one.to === null
      ? ['points', `${one.groups.length}${one.keep === null ? '' : `; the newest ${one.keep} are kept`}`]
      : ['backs up to', one.to],
    ...(last?.points ?? []).map(({ volume, id, stem }): [string, string] => [
      'point',
      `${volume}: ${id}, ${stem}`,
    ]),
    ...(last?.warnings ?? []).map((text): [string, string] => ['warning', text]),
    ...one.exposure.map(({ volume, at, point, seconds }): [string, string] => [
      'exposed',
      point === null
        ? `${volume}: it has no good point`
        : `${volume}: ${humanSeconds(seconds!)}, since ${at}`,
    ]),
  ];
  return lines.map(([name, value]) => `${name.padEnd(13)}${printable(value)}\n`).join('');
}

function runLine(run: RunInfo): string {
  const when = run.slot === null ? 'by hand' : `due ${run.slot}`;
  return `${run.started} (${when}): ${outcomeOf(run)}`;
}
