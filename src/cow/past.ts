/** What is known of a volume's past when it is opened: whether somebody else wrote to its origin, and what the tracker kept. */
import type { CowDurability, CowFound } from '../native.js';
import { type Constants, foreignWrite, type Identity, replaced, writtenAfterDeath } from './identity.js';

/** What is known of changes before now. */
export interface Tracking {
  /** `exact` to the chunk; `over` where a crash made regions count whole; `unknown` before the last start. */
  readonly state: 'exact' | 'over' | 'unknown';
  readonly why: string;
}

/** What the last run left. */
interface Left {
  /** The origin as a clean stop left it. */
  readonly stopped: Identity | null;
  readonly constants: Constants;
  readonly bootId: string;
}

/** Why nothing before now can be believed; undefined where it can. */
export function suspicion(
  stored: Left,
  now: Identity,
  lastAlive: Date | undefined,
  durability: CowDurability,
): string | undefined {
  if (stored.stopped) return foreignWrite(stored.stopped, now);
  // What the tracker noted was never synced, and may not have reached the disk before what it was noted for.
  if (durability === 'process' && stored.bootId !== now.bootId)
    return 'the machine stopped while the volume was in use, and the durability `process` does not outlast that';
  const sameBoot = stored.bootId === now.bootId;
  return replaced(stored.constants, now, sameBoot) ?? writtenAfterDeath(now, stored.bootId, lastAlive);
}

export function trackingOf(distrust: string | undefined, found: CowFound): Tracking {
  const why = distrust ?? found.tracking;
  if (why !== '') return { state: 'unknown', why };
  if (found.clean) return { state: 'exact', why: '' };
  return {
    state: 'over',
    why: 'the daemon was not stopped cleanly: regions written before count as changed whole',
  };
}
