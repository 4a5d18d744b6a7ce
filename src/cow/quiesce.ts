/**
 * A moment of a set of volumes: who is to hold still is found and told, the sequence is run, and what the moment is worth is
 * judged by what was seen to hold, not by what was asked. Where it was to be quiet and a write came between the window and the
 * switch, and it is worth no more by itself, what was taken goes, and the next window is waited for, until the deadline.
 */
import { AsofError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Clock } from './clock.js';
import { COMMAND_MS, type Commands, checkCommands } from './commands.js';
import {
  atLeast,
  CONSISTENCIES,
  type Consistency,
  classOf,
  type Evidence,
  type MomentRecord,
} from './consistency.js';
import { type FileSystem, fileSystemsOn } from './file-systems.js';
import { Freezer, fileSystemsOfAll, refuseOwn } from './freeze.js';
import type { ToldWriter } from './jobs.js';
import type { ProviderVolume, Taken } from './provider.js';
import { QUIET_DEADLINE_MS, QUIET_MS, same, waitForQuiet } from './quiet-window.js';
import { type Loss, runSequence, type Taker } from './sequence.js';
import { messageOf, Timeline } from './timeline.js';
import { makeWriter, type WriterRequest } from './writers/table.js';
import type { WriterHolder } from './writers/writer.js';

/** What a requester wants of a moment. */
export interface MomentRequest {
  /** The least that is acceptable; where absent, what the named writers grant, or `crash`. */
  readonly consistency?: Consistency;
  /** Milliseconds without a write that are waited for; none where absent, unless `quiet` is the least. */
  readonly quietMs?: number;
  readonly quietDeadlineMs?: number;
  /** What becomes of it when no quiet comes. */
  readonly quietMissed?: 'fail' | 'crash';
  /** Milliseconds that writers may take to prepare, and that anybody is held at most. */
  readonly prepareMs?: number;
  readonly holdMs?: number;
  /** Whether file systems on the volumes are frozen. */
  readonly freeze?: boolean;
  readonly writers?: readonly WriterRequest[];
  readonly commands?: Commands;
  /** Each volume has a moment of its own, all in one job. */
  readonly separately?: boolean;
  /** The id of the job, by whom runs it; a new one where absent. */
  readonly job?: string;
}

export const MOMENT_DEFAULTS = {
  quietMs: QUIET_MS,
  quietDeadlineMs: QUIET_DEADLINE_MS,
  quietMissed: 'fail',
  prepareMs: 120_000,
  holdMs: 30_000,
  freeze: true,
  commandMs: COMMAND_MS,
} as const;

export interface Subject {
  readonly volume: ProviderVolume;
  /** The path of its live device; undefined where it is not mounted. */
  readonly live: string | undefined;
}

export interface QuiescePlan {
  readonly clock: Clock;
  readonly log: Logger;
  /** Of the job. */
  readonly uid: string;
  readonly subjects: readonly Subject[];
  /** Where the daemon writes beside its open files. */
  readonly folders: readonly string[];
  /** For one attempt, in the order in which they are tried. */
  readonly takers: () => readonly Taker<Taken>[];
  readonly refused?: readonly { readonly name: string; readonly why: string }[] | undefined;
  readonly request: MomentRequest;
  readonly exclusively: <R>(work: () => Promise<R>) => Promise<R>;
  readonly stopping?: AbortSignal | undefined;
  /** Its own unless given. */
  readonly timeline?: Timeline | undefined;
  readonly journal?: WriterJournal | undefined;
}

/** Who keeps which writers were told. */
export interface WriterJournal {
  /** They are about to be told. Throws IO where that cannot be kept: then they must not be. */
  told(writers: readonly WriterRequest[]): readonly ToldWriter[];
  /** Throws IO. */
  save(): void;
  keep(): void;
}

/** Without what the commands of the job add. */
export type QuiesceRecord = Omit<MomentRecord, 'commands' | 'marks'>;

export interface Quiesced {
  readonly taken: Taken;
  readonly taker: Taker<Taken>;
  /** In the order of the subjects. */
  readonly records: readonly QuiesceRecord[];
}

/** Throws USAGE, before anybody is told anything. */
export function checkMoment(request: MomentRequest): void {
  const { consistency, writers = [], commands } = request;
  if (consistency !== undefined && !CONSISTENCIES.includes(consistency)) {
    throw new AsofError(
      'USAGE',
      `there is no consistency ${JSON.stringify(consistency)}`,
      `there are ${CONSISTENCIES.join(', ')}`,
    );
  }
  for (const name of ['quietMs', 'quietDeadlineMs', 'prepareMs', 'holdMs'] as const) {
    const ms = request[name];
    if (ms === undefined || (ms > 0 && ms <= 86_400_000)) continue;
    throw new AsofError('USAGE', `${ms / 1000} seconds are not allowed`, 'more than 0, up to 86400');
  }
  const clock = { now: () => 0, time: () => 0, after: () => () => {} };
  for (const writer of writers) makeWriter(writer, { clock, volumes: [], note: () => {} });
  if (commands) checkCommands(commands);
}

/** Throws HOLD_REFUSED where a file system on `paths` is one that the daemon itself writes to. */
export async function refuseEarly(
  paths: readonly (string | undefined)[],
  folders: readonly string[],
): Promise<void> {
  await refuseOwn(fileSystemsOfAll(paths.filter(path => path !== undefined)), folders);
}

/** A write came between the window and the switch: what was taken is no quiet moment, and is gone. */
class Disturbed extends Error {
  override readonly name = 'Disturbed';
}

/** Throws what the sequence throws, and HOLD_REFUSED. */
export async function quiesce(plan: QuiescePlan): Promise<Quiesced> {
  const timeline = plan.timeline ?? new Timeline(plan.clock, plan.log.child({ job: plan.uid }));
  const began = plan.clock.now();
  for (;;) {
    try {
      return await attempt(plan, timeline, began);
    } catch (error) {
      if (!(error instanceof AsofError && error.cause instanceof Disturbed)) throw error;
    }
  }
}

/** `began`: when the first window was waited for. */
async function attempt(plan: QuiescePlan, timeline: Timeline, began: number): Promise<Quiesced> {
  const { request, subjects, clock } = plan;
  const freeze = request.freeze ?? MOMENT_DEFAULTS.freeze;
  const holdMs = request.holdMs ?? MOMENT_DEFAULTS.holdMs;
  const notes: { who: string; text: string }[] = [];
  const volumes = subjects.map(({ volume }) => volume.definition.name);
  const takers = plan.takers();
  const told = plan.journal?.told(request.writers ?? []) ?? [];
  const writers = (request.writers ?? []).map((one, i) => {
    const memos = told[i]?.memos;
    const holder: WriterHolder = makeWriter(one, {
      clock,
      volumes,
      note: text => notes.push({ who: holder.name, text }),
      remember:
        memos &&
        (memo => {
          memos.push(memo);
          plan.journal!.save();
        }),
    });
    return told[i] && plan.journal ? journaled(holder, told[i], plan.journal) : holder;
  });
  const granted = writers.map(({ grants }) => grants).sort((a, b) => (atLeast(a, b) ? 1 : -1))[0];
  const least = request.consistency ?? granted ?? 'crash';
  const paths = subjects.map(({ live }) => live);
  const found = paths.map(path => (path === undefined ? [] : fileSystemsOn(path)));
  const all = freeze ? fileSystemsOfAll(paths.filter(path => path !== undefined)) : [];
  await refuseOwn(all, plan.folders);
  const freezer = await Freezer.start(all, holdMs);

  let quietWrites: readonly number[] | undefined;
  const windowMs = request.quietMs ?? (least === 'quiet' ? MOMENT_DEFAULTS.quietMs : undefined);
  const writes = () => subjects.map(({ volume }) => volume.native.activity().writes);
  const wait =
    windowMs === undefined
      ? undefined
      : async () => {
          const quiet = await waitForQuiet({
            clock,
            windowMs,
            deadlineMs: request.quietDeadlineMs ?? MOMENT_DEFAULTS.quietDeadlineMs,
            outcome: request.quietMissed ?? MOMENT_DEFAULTS.quietMissed,
            writes,
            began,
            stopping: plan.stopping,
          });
          quietWrites = quiet.writes;
        };

  /** Mounted while others were already being held. */
  const late = subjects.map((): FileSystem[] => []);
  const look = () => {
    for (const [i, path] of paths.entries()) {
      const now = path === undefined ? [] : fileSystemsOn(path);
      const known = [...found[i]!, ...late[i]!, ...all];
      late[i]!.push(...now.filter(one => !known.some(({ device }) => device === one.device)));
    }
  };
  const evidenceOf = (index: number, lost: readonly Loss[], taken: Taken | undefined): Evidence => ({
    writers: writers.map(writer => ({
      grants: writer.grants,
      lost: lost.find(({ holder }) => holder === writer)?.why ?? '',
    })),
    fileSystems: [
      ...(found[index] ?? []).map(one => {
        if (!freeze) return { mountPoint: one.mountPoint, lost: 'it was not to be frozen' };
        const holder = freezer.holders.find(({ fileSystem }) => fileSystem.device === one.device);
        const loss = lost.find(other => other.holder === holder);
        return { mountPoint: one.mountPoint, lost: loss ? loss.why.replace(`${one.mountPoint}: `, '') : '' };
      }),
      ...late[index]!.map(({ mountPoint }) => ({ mountPoint, lost: 'it was mounted meanwhile' })),
    ],
    quiet: !wait ? undefined : !taken || (quietWrites !== undefined && same(quietWrites, switched(taken))),
  });
  /** Whoever does not count writes at the switch is looked at after it: what came after then counts as before. */
  const switched = (taken: Taken) => taken.writes ?? writes();
  /** No window was missed, and yet it is no quiet moment, nor more than one. */
  const disturbed = (lost: readonly Loss[], taken: Taken) =>
    quietWrites !== undefined &&
    subjects.some((_, i) => {
      const evidence = evidenceOf(i, lost, taken);
      return evidence.quiet === false && !atLeast(classOf(evidence).consistency, 'quiet');
    });
  const short = (lost: readonly Loss[], taken: Taken | undefined): string | undefined => {
    for (const [i, { volume }] of subjects.entries()) {
      const { consistency, why } = classOf(evidenceOf(i, lost, taken));
      if (!atLeast(consistency, least)) return `${volume.definition.name} is ${consistency}: ${why}`;
    }
    return undefined;
  };

  try {
    const reached = await runSequence<Taken>({
      clock,
      timeline,
      writers,
      fileSystems: freezer.holders,
      takers: takers.map(taker => ({
        name: taker.name,
        undo: () => taker.undo(),
        async take(timeoutMs) {
          look();
          const taken = await taker.take(timeoutMs);
          look();
          return { ...taken, writes: switched(taken) };
        },
      })),
      refused: plan.refused,
      prepareMs: request.prepareMs ?? MOMENT_DEFAULTS.prepareMs,
      holdMs,
      wait,
      worth: lost => short(lost, undefined) === undefined,
      judge: (taken, lost) => {
        if (disturbed(lost, taken)) throw new Disturbed('a write came before the switch');
        return short(lost, taken);
      },
      stopping: plan.stopping,
      // What the daemon writes to may have changed while others prepared; from here on it does not.
      exclusively: work =>
        plan.exclusively(async () => {
          await refuseOwn(all, plan.folders);
          return work();
        }),
    });
    const { taken, lost, tried } = reached;
    const records = subjects.map((_, i): QuiesceRecord => {
      const evidence = evidenceOf(i, lost, taken);
      const rows = [...(found[i] ?? []), ...late[i]!];
      return {
        job: plan.uid,
        asked: least,
        ...classOf(evidence),
        transitions: timeline.transitions,
        steps: timeline.steps,
        fileSystems: rows.map(({ mountPoint, type, device }, row) => {
          const why = evidence.fileSystems[row]!.lost;
          return { mountPoint, type, device, held: why === '', why };
        }),
        providers: tried,
        warnings: lost.map(({ why }) => why),
        notes,
      };
    });
    const taker = takers.find(({ name }) => name === reached.taker.name)!;
    return { taken, taker, records };
  } finally {
    await freezer.close();
  }
}

/** Its release is written down, so that a later start does not repeat it. */
function journaled(holder: WriterHolder, told: ToldWriter, journal: WriterJournal): WriterHolder {
  return {
    name: holder.name,
    grants: holder.grants,
    prepare: async signal => holder.prepare?.(signal),
    hold: signal => holder.hold(signal),
    async release(signal, taken) {
      try {
        await holder.release(signal, taken);
      } catch (error) {
        told.why = messageOf(error);
        throw error;
      } finally {
        told.released = true;
        journal.keep();
      }
    },
  };
}
