/** `asof consolidate`: points leave a history, and those that are kept stay what they are. */
import type { Command } from 'commander';
import { AsofError } from '../errors.js';
import {
  type Action,
  type Consolidated,
  type ConsolidationPlan,
  consolidate,
  type History,
  isFolder,
  KEEP_RULES,
  type Keep,
  type KeepRule,
  keptPoints,
  type Leaving,
  openHistory,
  planOf,
} from '../histories.js';
import { counted, printable } from './columns.js';
import { type JsonFlag, named, withJson } from './options.js';
import { write, writeJson } from './output.js';
import { examples } from './program.js';
import { humanSize } from './size.js';

type KeepFlag = `keep${Capitalize<KeepRule>}`;
type Flags = JsonFlag & { readonly dryRun?: boolean } & Partial<Record<KeepFlag, number>>;

const WHAT: Record<KeepRule, string> = {
  last: 'the newest N points',
  hourly: 'the newest point of each of the last N hours that have one',
  daily: 'likewise of days',
  weekly: 'likewise of weeks (ISO 8601)',
  monthly: 'likewise of months',
  yearly: 'likewise of years',
};

export function define(command: Command): void {
  withJson(command).argument(
    '<PATH>',
    'a file of the point that is to go, or the folder of a history',
    named('PATH'),
  );
  for (const rule of KEEP_RULES) {
    command.option(`--keep-${rule} <N>`, `keep ${WHAT[rule]}`, text => parseCount(text, `--keep-${rule}`));
  }
  command
    .option('--dry-run', 'tell what would be done, and do nothing')
    .addHelpText(
      'after',
      `
With a folder, what no rule keeps goes; of each volume for itself, in UTC. The rules are those of restic forget: where points
end before a rule has its N, the oldest is kept as well. A point that another stands on is merged into it, at the cost of
what that one stores; a point that several stand on stays until one is left. Nothing is taken away under a mount or another
reader. A run that is killed leaves every point readable, and the next one finishes.
${examples(['asof consolidate /backup --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run', 'asof consolidate /backup/data-2026-11-21T10-15-00Z-3f2c91d0.qcow2'])}`,
    )
    .action(async (path: string, flags: Flags) => {
      const keep = rulesOf(flags);
      const rules = Object.keys(keep).length > 0;
      const { history, point } = openHistory(path);
      history.close();
      if (point ? rules : !rules) {
        const what = point ? `${path} is one point: it goes whatever rules keep` : `${path} is a folder`;
        throw new AsofError(
          'USAGE',
          what,
          point ? 'leave the rules out' : '--keep-last N, --keep-daily N, …',
        );
      }
      if (isFolder(path) && Object.values(keep).every(count => count === 0)) {
        throw new AsofError('USAGE', 'these rules keep nothing', '--keep-last 1 keeps the newest point');
      }
      const leaving: Leaving = point ? { point: point.manifest.id } : { keep };
      if (flags.dryRun) {
        const plan = planOf(history, leaving);
        if (flags.json) await writeJson(planJson(history, leaving, plan));
        else await write(planText(history, leaving, plan));
        return;
      }
      const told: Promise<void>[] = [];
      const result = await consolidate(history.path, leaving, action => {
        if (!flags.json) told.push(write(`${printable(actionText(action, true))}\n`));
      });
      await Promise.all(told);
      if (flags.json) await writeJson(resultJson(result));
      else await write(resultText(result));
    });
}

function rulesOf(flags: Flags): Keep {
  const found: Partial<Record<KeepRule, number>> = {};
  for (const rule of KEEP_RULES) {
    const count = flags[`keep${rule[0]!.toUpperCase()}${rule.slice(1)}` as KeepFlag];
    if (count !== undefined) found[rule] = count;
  }
  return found;
}

function parseCount(text: string, option: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new AsofError('USAGE', `${option} ${JSON.stringify(text)} is no number from 0 to 999999`);
}

function actionText({ point, into }: Action, done = false): string {
  if (!into) return `${point.stem}: ${done ? 'deleted' : 'would be deleted'}`;
  return `${point.stem}: ${done ? 'merged' : 'would be merged'} into ${into.stem}`;
}

function staysText({ stays }: Pick<ConsolidationPlan, 'stays'>): string[] {
  return stays.map(({ point, why }) => `${point.stem}: stays, because ${why}`);
}

function planText(history: History, leaving: Leaving, plan: ConsolidationPlan): string {
  const lines = [...plan.actions.map(action => actionText(action)), ...staysText(plan)];
  if ('keep' in leaving) {
    const kept = keptPoints(history, leaving.keep);
    for (const { stem, manifest } of history.points) {
      const rules = kept.get(manifest.id);
      if (rules) lines.push(`${stem}: kept (${rules.join(', ')})`);
    }
  }
  return lines.map(line => `${printable(line)}\n`).join('');
}

function resultText(result: Consolidated): string {
  const { done, stays, recovered, copied } = result;
  const lines = recovered.map(stem => `${stem}: a merge that had been killed was finished or undone first`);
  lines.push(...staysText({ stays }));
  lines.push(`${counted(done.length, 'point')} left the history, ${humanSize(copied)} copied`);
  return lines.map(line => `${printable(line)}\n`).join('');
}

const actionJson = ({ point, into }: Action) => ({
  id: point.manifest.id,
  stem: point.stem,
  into: into?.manifest.id ?? null,
});

const staysJson = ({ stays }: Pick<ConsolidationPlan, 'stays'>) =>
  stays.map(({ point, why }) => ({ id: point.manifest.id, stem: point.stem, why }));

function planJson(history: History, leaving: Leaving, plan: ConsolidationPlan) {
  const kept = 'keep' in leaving ? Object.fromEntries(keptPoints(history, leaving.keep)) : {};
  return { path: history.path, actions: plan.actions.map(actionJson), stays: staysJson(plan), kept };
}

function resultJson(result: Consolidated) {
  const { recovered, copied } = result;
  return { done: result.done.map(actionJson), stays: staysJson(result), recovered, copied };
}
