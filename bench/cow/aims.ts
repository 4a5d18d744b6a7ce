/**
 * What is to be reached, beside what was.
 */
import { figure, table } from '../table.js';

export interface Aim {
  readonly aim: string;
  /** The worst of the measured cases. */
  readonly reached: number;
  readonly unit: string;
  readonly limit: number;
  readonly at: 'most' | 'least';
  /** Which case that was. */
  readonly where: string;
}

export function aimsTable(aims: readonly Aim[]): string {
  return table(
    ['aim', 'reached', 'wanted', 'met', 'the worst case'],
    aims.map(({ aim, reached, unit, limit, at, where }) => [
      aim,
      `${figure(reached)} ${unit}`,
      `at ${at} ${limit} ${unit}`,
      (at === 'most' ? reached <= limit : reached >= limit) ? 'yes' : 'no',
      where,
    ]),
  );
}

/** The case that is the furthest from an aim. */
export function worst(
  cases: readonly { readonly value: number; readonly where: string }[],
  at: 'most' | 'least',
): { reached: number; where: string } {
  const sorted = [...cases].sort((a, b) => (at === 'most' ? b.value - a.value : a.value - b.value));
  return { reached: sorted[0]?.value ?? Number.NaN, where: sorted[0]?.where ?? 'not measured' };
}
