/**
 * Local times and the moments that they mean. Twice a year most zones have a local time that never comes, and one that
 * comes twice; cron.ts says what becomes of them.
 */
import { AsofError } from '../errors.js';

export interface Zone {
  /** '' for the zone of this machine. */
  readonly name: string;
  /** Milliseconds that local time is ahead of UTC at that moment. */
  offset(time: number): number;
}

/** Zones differ from UTC by at most 14 hours; no zone has two changes in twice this time. */
const SPAN = 26 * 3_600_000;

export const LOCAL_ZONE: Zone = {
  name: '',
  offset: time => -new Date(time).getTimezoneOffset() * 60_000,
};

/** An IANA name, such as Europe/Berlin. Throws USAGE. */
export function zoneNamed(name: string): Zone {
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat('en-US', {
      timeZone: name,
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
      second: 'numeric',
    });
  } catch (error) {
    throw new AsofError('USAGE', `there is no time zone ${JSON.stringify(name)}`, 'such as Europe/Berlin', {
      cause: error,
    });
  }
  return {
    name,
    offset(time) {
      const parts = new Map(format.formatToParts(time).map(({ type, value }) => [type, Number(value)]));
      const of = (type: Intl.DateTimeFormatPartTypes) => parts.get(type)!;
      const local = Date.UTC(of('year'), of('month') - 1, of('day'), of('hour'), of('minute'), of('second'));
      return local - Math.floor(time / 1000) * 1000;
    },
  };
}

/** What a local time, written as if it were UTC, means: one moment, two, or none. */
export function momentsOf(local: number, zone: Zone): number[] {
  const offsets = [zone.offset(local - SPAN), zone.offset(local + SPAN)];
  if (offsets[0] === offsets[1]) return [local - offsets[0]!];
  return offsets
    .map(offset => local - offset)
    .filter(time => zone.offset(time) === local - time)
    .sort((a, b) => a - b);
}

/** The first moment after the change that leaves out `local`. */
export function changeAround(local: number, zone: Zone): number {
  let before = local - SPAN;
  let after = local + SPAN;
  const old = zone.offset(before);
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2);
    if (zone.offset(middle) === old) before = middle;
    else after = middle;
  }
  return after;
}

/** Whether the zone changes near the local day that begins at `day`. */
export function steady(day: number, zone: Zone): boolean {
  return zone.offset(day - SPAN) === zone.offset(day + 24 * 3_600_000 + SPAN);
}
