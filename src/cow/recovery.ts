/**
 * What becomes of jobs that a daemon left unfinished when it was killed. At the next start
 *
 * - what providers made for them, and what is no moment that anybody was told of, goes;
 * - where their snapshots were being recorded, all of them are there;
 * - writers that were told to hold are let go, and after-commands that have not ended run, under the job's own id: so whatever
 *   a before-command stopped is started again. A command that ended with the daemon runs once more, and not a third time.
 *
 * The record then says that the job was interrupted; so do its snapshots, where they are there.
 */
import type { Logger } from '../log.js';
import { type Clock, within } from './clock.js';
import { type CommandRun, commandAt, type Named, STAGES, type Stage } from './commands.js';
import { failureOf, isAfter, runStage } from './job.js';
import type { BegunCommand, Job, Jobs, Take } from './jobs.js';
import { providerNamed } from './providers.js';
import { messageOf } from './timeline.js';
import type { Volume } from './volume.js';
import { writerNamed } from './writers/table.js';

/** Milliseconds that a writer may take to let go. */
const RELEASE_MS = 120_000;

/** How often a command is begun at most. */
const ATTEMPTS = 2;

const INTERRUPTED = 'the daemon ended before the job was over';
const CUT = 'the daemon ended while it ran';

/** Ids of snapshots that are wanted by nobody, where nothing is recorded of them. */
export function unwantedOf(jobs: Jobs): ReadonlySet<string> {
  const takes = jobs.list().flatMap(({ body }) => {
    return body.takes.filter(one => one.left || (body.state === 'running' && body.ended === null));
  });
  return new Set(takes.flatMap(({ members }) => members.map(({ id }) => id)));
}

/** Groups of which every member is to be there. */
export function committedOf(jobs: Jobs): ReadonlySet<string> {
  const there = jobs.list().filter(({ body }) => body.state === 'there');
  return new Set(there.flatMap(({ body }) => body.takes.filter(one => one.there).map(({ group }) => group)));
}

/** When all volumes are open as far as they can be: unfinished jobs that still owe something. */
export async function settleJobs(
  jobs: Jobs,
  volumes: ReadonlyMap<string, Volume>,
  clock: Clock,
): Promise<Job[]> {
  const owing: Job[] = [];
  for (const job of jobs.list()) {
    const { body } = job;
    const unfinished = body.ended === null;
    if (!unfinished && !body.takes.some(({ left }) => left)) continue;
    if (body.state === 'there') for (const take of body.takes) complete(take, volumes);
    for (const take of body.takes) {
      if (take.left || (unfinished && !isThere(take, volumes))) take.left = await remains(take, volumes);
    }
    if (!unfinished) job.settle();
    else if (
      STAGES.some(stage => commandAt(body.commands, stage) !== '') ||
      body.writers.some(({ released }) => !released)
    )
      owing.push(job);
    else if (body.takes.some(take => isThere(take, volumes))) job.finish('done', clock.time());
    else job.finish('interrupted', clock.time(), new Error(INTERRUPTED));
  }
  return owing.sort((a, b) => a.body.started - b.body.started);
}

function isThere({ members }: Take, volumes: ReadonlyMap<string, Volume>): boolean {
  return members.some(({ volume, id }) =>
    volumes
      .get(volume)
      ?.snapshots()
      .some(one => one.id === id),
  );
}

/** What no provider lists, and was to be recorded. */
function complete(take: Take, volumes: ReadonlyMap<string, Volume>): void {
  const provider = providerNamed(take.provider);
  if (!take.there || provider.can.preserves) return;
  for (const [i, { volume: owner, id }] of take.members.entries()) {
    const volume = volumes.get(owner);
    if (volume?.state !== 'open' || volume.epochs().some(one => one.id === id)) continue;
    const moment = volume.momentRecord(id);
    const part = { id, group: take.group, groupSize: take.members.length, epoch: take.there.epochs[i]! };
    volume.record(provider, take.there, part, moment?.consistency ?? 'none', moment?.marks);
  }
}

/** Whether a provider has something of it still, as far as that can be seen. */
async function remains({ members }: Take, volumes: ReadonlyMap<string, Volume>): Promise<boolean> {
  for (const { volume: owner, id } of members) {
    const volume = volumes.get(owner);
    if (!volume) continue;
    if (volume.state !== 'open') return true;
    if (volume.epochs().some(one => one.id === id)) continue;
    if ((await volume.holds([id])).length > 0) return true;
  }
  return false;
}

export interface RecoveryContext {
  readonly clock: Clock;
  readonly log: Logger;
  readonly stopping: AbortSignal;
  readonly volumes: ReadonlyMap<string, Volume>;
}

/** Does what the job owes. Never rejects; where this daemon is to end as well, the rest is left to the next one. */
export async function recoverJob(job: Job, context: RecoveryContext): Promise<void> {
  const { clock, log, stopping } = context;
  const { body } = job;
  log.warn({ job: body.uid }, 'a job was interrupted: what it owes is done');
  for (const told of [...body.writers].reverse()) {
    if (told.released) continue;
    if (stopping.aborted) return;
    try {
      const { kind, settings, volumes, memos } = told;
      const context = { clock, volumes, note: () => {} };
      const work = (signal: AbortSignal) =>
        writerNamed(kind)?.recover?.(settings, context, memos, signal) ?? Promise.resolve();
      await within(clock, RELEASE_MS, work, stopping);
    } catch (error) {
      if (stopping.aborted) return;
      told.why = messageOf(error);
      log.error({ job: body.uid, writer: told.kind, err: error }, 'it could not be let go');
    }
    told.released = true;
    job.keep();
  }
  const due: [Stage, readonly Named[]][] = [
    ...body.sets.map((set): [Stage, readonly Named[]] => ['AFTER_SNAPSHOT', set]),
    ['AFTER_BACKUP', body.sets.flat()],
  ];
  for (const [stage, volumes] of due) {
    const begun = body.runs.find(one => one.stage === stage && same(one, volumes));
    if (begun && (begun.ran !== null || begun.attempts >= ATTEMPTS)) continue;
    if (stopping.aborted) return;
    const call = { stage, uid: body.uid, volumes, clock, failed: INTERRUPTED };
    await runStage({ commands: body.commands, journal: job, stopping, log }, call);
  }
  const commands = body.runs.map(runOf);
  const failures = commands.filter(({ stage, why }) => isAfter(stage) && why).map(failureOf);
  for (const { volume: owner, id } of body.takes.flatMap(({ members }) => members)) {
    const volume = context.volumes.get(owner);
    const moment = volume?.state === 'open' ? volume.momentRecord(id) : undefined;
    if (!moment) continue;
    try {
      volume!.amend(id, { ...moment, commands, marks: [INTERRUPTED, ...failures] });
    } catch (error) {
      log.error({ job: body.uid, err: error }, 'what the commands said is not kept');
    }
  }
  job.finish('interrupted', clock.time(), new Error(INTERRUPTED));
}

function same({ volumes }: BegunCommand, set: readonly Named[]): boolean {
  return volumes.length === set.length && set.every(({ name }, i) => name === volumes[i]);
}

function runOf({ stage, command, volumes, ran }: BegunCommand): CommandRun {
  return ran ?? { stage, command, volumes, code: null, signal: null, why: CUT, output: '', took: 0 };
}
