/**
 * Which points of a volume are kept: the rules of restic's `forget` (restic, internal/restic/snapshot_policy.go), so that
 * nobody has to learn new ones. For each rule, from the newest point to the oldest: the first point of each hour (day, ISO
 * week, month, year) is kept, until as many are kept as the rule says; where the points end before that, the oldest one is
 * kept as well. A point that any rule keeps is kept. Times are UTC, as in the names of points.
 */

export const KEEP_RULES = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
export type KeepRule = (typeof KEEP_RULES)[number];

/** How many; a rule that is not there keeps nothing. */
export type Keep = Readonly<Partial<Record<KeepRule, number>>>;

const BUCKET: Record<KeepRule, (time: Date, index: number) => string> = {
  last: (_time, index) => String(index),
  hourly: time => time.toISOString().slice(0, 13),
  daily: time => time.toISOString().slice(0, 10),
  weekly: weekOf,
  monthly: time => time.toISOString().slice(0, 7),
  yearly: time => time.toISOString().slice(0, 4),
};

/** Of each time, the rules that keep it; none is not kept. `times` are in rising order. */
export function keptBy(times: readonly Date[], keep: Keep): KeepRule[][] {
  const kept: KeepRule[][] = times.map(() => []);
  for (const rule of KEEP_RULES) {
    let left = keep[rule] ?? 0;
    let last: string | undefined;
    for (let i = times.length - 1; i >= 0 && left > 0; i--) {
      const bucket = BUCKET[rule](times[i]!, i);
      if (bucket === last && i > 0) continue;
      kept[i]!.push(rule);
      last = bucket;
      left--;
    }
  }
  return kept;
}

/** Year and week of ISO 8601: a week belongs to the year that its Thursday is in. */
function weekOf(time: Date): string {
  const thursday = new Date(Date.UTC(time.getUTCFullYear(), time.getUTCMonth(), time.getUTCDate()));
  thursday.setUTCDate(thursday.getUTCDate() + 4 - (thursday.getUTCDay() || 7));
  const year = thursday.getUTCFullYear();
  const days = (thursday.getTime() - Date.UTC(year, 0, 1)) / 86_400_000;
  return `${year}-${1 + Math.floor(days / 7)}`;
}
