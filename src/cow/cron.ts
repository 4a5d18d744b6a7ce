/**
 * Times as crontab(5) writes them: minute, hour, day of the month, month, day of the week; with names, lists, ranges, steps,
 * and @daily and its like. Where both days are restricted, either will do.
 *
 * What becomes of the change to summer time and back:
 *   a time that does not exist     comes once, at the first moment after the gap
 *   a time that exists twice       comes the first time only
 *   a schedule of every hour       goes by the hours that pass: what is left out is left out, what comes twice comes twice
 *
 * The packages that exist were tried: they drop some of the times that do not exist, and with them a night's snapshot.
 */
import { AsofError } from '../errors.js';
import { changeAround, momentsOf, steady, type Zone } from './zone.js';

const DAY = 86_400_000;
/** Days to look ahead: two leap years are eight years apart at most. */
const HORIZON_DAYS = 366 * 9;

const NICKNAMES: Readonly<Record<string, string>> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@hourly': '0 * * * *',
};

interface Field {
  readonly what: string;
  readonly least: number;
  readonly most: number;
  readonly names?: readonly string[];
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const FIELDS: readonly Field[] = [
  { what: 'minute', least: 0, most: 59 },
  { what: 'hour', least: 0, most: 23 },
  { what: 'day of the month', least: 1, most: 31 },
  { what: 'month', least: 1, most: 12, names: MONTHS },
  { what: 'day of the week', least: 0, most: 7, names: DAYS },
];

const HINT =
  'five fields: minute, hour, day of the month, month, day of the week, such as "30 2 * * mon-fri"; or @daily';

export class Cron {
  readonly #minutes: readonly number[];
  readonly #hours: readonly number[];
  readonly #days: ReadonlySet<number>;
  readonly #months: ReadonlySet<number>;
  readonly #weekdays: ReadonlySet<number>;
  /** A field that begins with a star restricts nothing by itself. */
  readonly #either: boolean;

  /** Throws USAGE. */
  constructor(text: string) {
    const line = text.trim().toLowerCase();
    const known = Object.hasOwn(NICKNAMES, line);
    const parts = (known ? NICKNAMES[line]! : line).split(/\s+/);
    if (line.startsWith('@') && !known) {
      throw wrong(text, `there are ${Object.keys(NICKNAMES).join(', ')}`);
    }
    if (parts.length !== FIELDS.length) throw wrong(text, `it has ${parts.length} fields and not 5`);
    const sets = parts.map((part, i) => valuesOf(part, FIELDS[i]!, text));
    const [minutes, hours, days, months, weekdays] = sets as [Set, Set, Set, Set, Set];
    this.#minutes = [...minutes].sort((a, b) => a - b);
    this.#hours = [...hours].sort((a, b) => a - b);
    this.#days = days;
    this.#months = months;
    this.#weekdays = new Set([...weekdays].map(one => one % 7));
    this.#either = !parts[2]!.startsWith('*') && !parts[4]!.startsWith('*');
    if (!this.#comes()) throw wrong(text, 'that day never comes');
  }

  get hourly(): boolean {
    return this.#hours.length === 24;
  }

  /** The first moment after `after` that it means. */
  next(after: number, zone: Zone): number {
    const today = Math.floor((after + zone.offset(after)) / DAY) * DAY;
    for (let day = today - DAY; day < today + HORIZON_DAYS * DAY; day += DAY) {
      if (!this.#meansDay(day)) continue;
      const later = this.#momentsOn(day, zone).filter(time => time > after);
      if (later.length > 0) return later.reduce((a, b) => Math.min(a, b));
    }
    throw new Error('the constructor has seen that the day comes');
  }

  #comes(): boolean {
    const start = Date.UTC(2024, 0, 1);
    for (let i = 0; i < HORIZON_DAYS; i++) if (this.#meansDay(start + i * DAY)) return true;
    return false;
  }

  #meansDay(day: number): boolean {
    const date = new Date(day);
    if (!this.#months.has(date.getUTCMonth() + 1)) return false;
    const ofMonth = this.#days.has(date.getUTCDate());
    const ofWeek = this.#weekdays.has(date.getUTCDay());
    return this.#either ? ofMonth || ofWeek : ofMonth && ofWeek;
  }

  #momentsOn(day: number, zone: Zone): number[] {
    const locals = this.#hours.flatMap(hour =>
      this.#minutes.map(minute => day + hour * 3_600_000 + minute * 60_000),
    );
    if (steady(day, zone)) {
      const offset = zone.offset(day);
      return locals.map(local => local - offset);
    }
    return locals.flatMap(local => {
      const moments = momentsOf(local, zone);
      if (this.hourly) return moments;
      return moments.length > 0 ? [moments[0]!] : [changeAround(local, zone)];
    });
  }
}

type Set = ReadonlySet<number>;

function valuesOf(part: string, field: Field, text: string): Set {
  const { what, least, most } = field;
  const values = new Set<number>();
  const bad = (why: string) => wrong(text, `the ${what} ${JSON.stringify(part)} ${why}`);
  const number = (word: string): number => {
    const index = field.names?.indexOf(word) ?? -1;
    const value = index >= 0 ? index + least : /^\d{1,2}$/.test(word) ? Number(word) : Number.NaN;
    if (value >= least && value <= most) return value;
    const names = field.names ? `, or ${field.names[0]} to ${field.names.at(-1)}` : '';
    throw bad(`is not allowed: numbers from ${least} to ${most}${names}, * , lists, ranges, steps`);
  };
  for (const item of part.split(',')) {
    const match = /^(\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:\/(\d{1,2}))?$/.exec(item);
    if (!match) throw bad('is not understood');
    const [, whole, first = '', last, step] = match;
    const from = whole === '*' ? least : number(first);
    const to = whole === '*' ? most : last === undefined ? (step === undefined ? from : most) : number(last);
    const by = step === undefined ? 1 : Number(step);
    if (by < 1) throw bad('has a step of 0');
    if (to < from) throw bad('is a range that ends before it begins');
    for (let value = from; value <= to; value += by) values.add(value);
  }
  return values;
}

function wrong(text: string, why: string): AsofError {
  return new AsofError('USAGE', `the time ${JSON.stringify(text)} is not allowed: ${why}`, HINT);
}
