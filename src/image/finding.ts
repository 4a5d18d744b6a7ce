/**
 * What the doctor says: one thing that is wrong, or worth knowing, in one member of a chain.
 */

/**
 * `defect`: bytes cannot be vouched for, or a rule of the format is broken. `leak`: space is counted as used and is
 * not; no byte is in danger. `note`: worth knowing, nothing is wrong.
 */
export const SEVERITIES = ['defect', 'leak', 'note'] as const;
export type Severity = (typeof SEVERITIES)[number];

export interface Finding {
  readonly severity: Severity;
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
