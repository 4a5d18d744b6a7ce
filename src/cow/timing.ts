/**
 * When a schedule is due. Its slots are moments; the newest that it has dealt with is remembered, so that none is dealt with
 * twice, whatever the clock does.
 *
 *   cron    slots are what the clock on the wall shows. Put back, they do not come again; put back by more than a day, the
 *           clock was wrong before, and is believed now. A schedule of every hour goes on as time goes on.
 *   every   slots are a period apart, counted from the first; a clock that is put back takes them along.
 */
import { AsofError } from '../errors.js';
import { Cron } from './cron.js';
import { LOCAL_ZONE, type Zone, zoneNamed } from './zone.js';

export interface Timing {
  /** As the user says it; another text is another timing. */
  readonly text: string;
  /** The slot before the first, of a schedule that begins now. */
  first(now: number): number;
  /** The first slot after `slot`. */
  next(slot: number): number;
  /** The newest slot after `slot` and up to `now`; undefined where there is none. */
  due(slot: number, now: number): number | undefined;
  /** What becomes of `slot` when the clock says `now` after it was put back by `by` milliseconds. */
  putBack(slot: number, now: number, by: number): number;
}

/** As a user says it: one of the two. */
export interface TimingRequest {
  readonly cron?: string;
  /** Minutes, or such as 15m, 6h, 1d. */
  readonly every?: number | string;
  readonly timeZone?: string;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const EVERY_MOST = 366 * DAY;
const UNITS: Readonly<Record<string, number>> = { m: MINUTE, h: HOUR, d: DAY };

/** Throws USAGE. */
export function timingOf({ cron, every, timeZone }: TimingRequest): Timing {
  if ((cron === undefined) === (every === undefined)) {
    throw new AsofError('USAGE', 'a schedule has either cron or every', 'cron: "30 2 * * *"; every: 15m');
  }
  if (cron !== undefined) return cronTiming(cron, timeZone === undefined ? LOCAL_ZONE : zoneNamed(timeZone));
  if (timeZone !== undefined) throw new AsofError('USAGE', 'a time zone means nothing to every');
  return everyTiming(every!);
}

function everyTiming(every: number | string): Timing {
  const match = /^(\d{1,6})([mhd]?)$/.exec(String(every).trim());
  const period = match ? Number(match[1]) * UNITS[match[2] || 'm']! : 0;
  if (period < MINUTE || period > EVERY_MOST) {
    throw new AsofError(
      'USAGE',
      `a schedule of every ${JSON.stringify(every)} is not allowed`,
      'from 1m to 366d: minutes, or such as 15m, 6h, 1d',
    );
  }
  const due = (slot: number, now: number) => slot + Math.floor((now - slot) / period) * period;
  return {
    text: `every ${match![1]}${match![2] || 'm'}`,
    first: now => now - period,
    next: slot => slot + period,
    due: (slot, now) => (now - slot < period ? undefined : due(slot, now)),
    putBack: (slot, now, by) => Math.min(slot - by, now),
  };
}

function cronTiming(text: string, zone: Zone): Timing {
  const cron = new Cron(text);
  /** The last answer: it is asked for again and again until it is due. */
  let last = { slot: Number.NaN, next: Number.NaN };
  const next = (slot: number) => {
    if (slot !== last.slot) last = { slot, next: cron.next(slot, zone) };
    return last.next;
  };
  return {
    text: `${text.trim()}${zone.name && ` ${zone.name}`}`,
    first: now => now,
    next,
    due(slot, now) {
      if (next(slot) > now) return undefined;
      // After months of absence not every slot of them is looked at.
      for (const back of [HOUR, DAY, 32 * DAY, Number.POSITIVE_INFINITY]) {
        let newest: number | undefined;
        for (let at = next(Math.max(slot, now - back)); at <= now; at = next(at)) newest = at;
        if (newest !== undefined) return newest;
      }
      return undefined;
    },
    putBack(slot, now) {
      const ahead = slot - now;
      return ahead > DAY || (cron.hourly && ahead >= MINUTE) ? now : slot;
    },
  };
}
