/** Which providers take the snapshots of what, and in which order, where a request does not say: the configuration's word. */
import { AsofError } from '../errors.js';

export interface SnapshotPolicy {
  /** In the order in which they are tried. */
  readonly providers?: readonly string[];
  /** Bytes of the volume group for a thick snapshot of lvm2. */
  readonly lvmSize?: number;
}

export interface SnapshotPolicies {
  readonly defaults: SnapshotPolicy;
  /** By the name of the volume. */
  readonly volumes: ReadonlyMap<string, SnapshotPolicy>;
  /** By the name of the group, without its @. */
  readonly groups: ReadonlyMap<string, SnapshotPolicy>;
}

export const NO_POLICIES: SnapshotPolicies = { defaults: {}, volumes: new Map(), groups: new Map() };

/**
 * The order for one moment of `volumes`: that of the group that was asked for alone, else the volumes' own, else the
 * defaults'; undefined where nobody says one. Throws USAGE where the volumes say different ones.
 */
export function orderOf(
  policies: SnapshotPolicies,
  asked: readonly string[],
  volumes: readonly string[],
): readonly string[] | undefined {
  const [only, second] = asked;
  if (only?.startsWith('@') && second === undefined) {
    const order = policies.groups.get(only.slice(1))?.providers;
    if (order) return order;
  }
  const orders = volumes.map(name => policies.volumes.get(name)?.providers ?? policies.defaults.providers);
  const distinct = new Map(orders.map(order => [order?.join(',') ?? '', order]));
  if (distinct.size <= 1) return orders[0];
  throw new AsofError(
    'USAGE',
    `the configuration has different providers for ${volumes.join(', ')}, which are to be one moment`,
    '--provider cow,reflink names an order for all, providers of a group in the configuration too',
  );
}

export function lvmSizeOf(policies: SnapshotPolicies, volume: string): number | undefined {
  return policies.volumes.get(volume)?.lvmSize ?? policies.defaults.lvmSize;
}
