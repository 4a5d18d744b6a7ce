/**
 * What the doctor says: one thing that is wrong, or worth knowing, in one member of a chain.
 */

/**
 * `defect`: bytes cannot be vouched for, or a rule of the format is broken. `leak`: space is counted as used and is
 * not; no byte is in danger. `note`: worth knowing, nothing is wrong.
 */
export const SEVERITIES = ['defect', 'leak', 'note'] as const;
export type Severity = (typeof SEVERITIES)[number];

/**
 * What it is about, for a script: `range` a run of the disk that cannot be read right; `entry` one of a table that
 * breaks a rule; `reference` one that leads out of the file; `refcount` a count too low or, as a leak, too high;
 * `copied` a flag that denies the refcount; `overlap` one place used for two things; `table` a table as a whole;
 * `image` the image as a whole; `chain` how two members stand on each other.
 */
export const KINDS = [
  'range',
  'entry',
  'reference',
  'refcount',
  'copied',
  'overlap',
  'table',
  'image',
  'chain',
] as const;
export type Kind = (typeof KINDS)[number];

export interface Finding {
  readonly severity: Severity;
  readonly kind: Kind;
  /** Path of the member. */
  readonly member: string;
  /** A sentence. */
  readonly what: string;
  /** How many single faults of the same kind the finding stands for; at least 1. */
  readonly count: number;
  /** The run of the member's virtual disk that it concerns, bytes; absent where it is not one run. */
  readonly range?: { readonly offset: number; readonly length: number } | undefined;
  /** The internal snapshot that it concerns, by id; absent for the current state. */
  readonly snapshot?: string | undefined;
}
