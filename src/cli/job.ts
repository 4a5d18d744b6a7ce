/** `asof job`: jobs of the daemon that are under way, that failed, or that it was killed in the middle of. */
import type { Command } from 'commander';
import type { JobInfo } from '../volumes.js';
import { Client } from './client.js';
import { columns, printable } from './columns.js';
import { commandsSection, section, timelineSection } from './moment.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { type StateFlags, withState } from './state.js';

export function define(command: Command): void {
  command.addHelpText(
    'after',
    `
A job takes one or more moments, with the commands around them. One that is done is told by asof snapshot show; of those that
failed or were interrupted the newest 100 are kept. With --json the answers are JSON.
${examples(['asof job list', 'asof job show 3f2c91d0'])}`,
  );
  withState(command.command('list'))
    .description('jobs under way, and those that failed or were interrupted; the newest first')
    .addHelpText('after', examples(['asof job list']))
    .action(async (flags: StateFlags) => {
      const jobs = await new Client(flags).ask<JobInfo[]>('GET', '/jobs');
      if (flags.json) await writeJson(jobs);
      else await write(table(jobs));
    });
  withState(command.command('show'))
    .description('one of them: its timeline, providers, commands, and why it failed')
    .argument('<ID>', 'its id, R_CALLBACK_UID of its commands; it may be cut short')
    .addHelpText('after', examples(['asof job show 3f2c91d0']))
    .action(async (id: string, flags: StateFlags) => {
      const job = await new Client(flags).ask<JobInfo>('GET', `/jobs/${encodeURIComponent(id)}`);
      if (flags.json) await writeJson(job);
      else await write(forPeople(job));
    });
}

function table(jobs: readonly JobInfo[]): string {
  const rows = jobs.map(({ job, volumes, started, state, code, why }) => {
    const told = [code, why].filter(text => text !== '').join(': ');
    return [job, volumes.join(','), started, told ? `${state}: ${told}` : state];
  });
  return columns(['JOB', 'VOLUMES', 'STARTED', 'STATE'], ['<', '<', '<', '<'], rows);
}

function forPeople(job: JobInfo): string {
  const lines: [string, string][] = [
    ['job', job.job],
    ['volumes', job.volumes.join(', ')],
    ['started', job.started],
    ['ended', job.ended ?? '-'],
    ['state', job.state],
    ...(job.why ? [['why', job.code ? `${job.code}: ${job.why}` : job.why] as [string, string]] : []),
  ];
  const more = [
    ...job.moments.flatMap(moment => [
      `moment of ${moment.volumes.join(', ')}`,
      ...timelineSection(moment),
      ...section(
        'providers',
        moment.providers.map(({ name, why }) => `${name}: ${why || 'took it'}`),
      ),
    ]),
    ...commandsSection(job.commands),
    ...section(
      'writers that outlive the daemon',
      job.writers.map(({ kind, released, why }) => `${kind}: ${why || (released ? 'released' : 'told')}`),
    ),
    ...section(
      'left behind; it goes when its provider answers, or at the next start',
      job.left.map(({ provider, id }) => `${provider}: ${id}`),
    ),
  ];
  const told = lines.map(([name, value]) => `${name.padEnd(13)}${printable(value)}\n`);
  return [...told, ...more.map(line => `${printable(line)}\n`)].join('');
}
