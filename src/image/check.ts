/**
 * The doctor for a whole chain: every member alone, then how they stand on each other.
 */
import type { Chain } from './chain.js';
import type { Finding } from './finding.js';

/** What is wrong with `chain`, member by member. Lazy: stop asking to stop checking. */
export function* check(chain: Chain): Generator<Finding, void, undefined> {
  for (const member of chain.members) yield* member.check();
}
