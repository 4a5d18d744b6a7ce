/** The providers. A new one is one file and one line here. */
import { AsofError } from '../errors.js';
import type { Consistency } from './consistency.js';
import type { ProviderVolume, SnapshotProvider } from './provider.js';
import { btrfs } from './provider-btrfs.js';
import { cow } from './provider-cow.js';
import { lvm } from './provider-lvm.js';
import { none } from './provider-none.js';
import { reflink } from './provider-reflink.js';

export const PROVIDERS: readonly SnapshotProvider[] = [cow, reflink, lvm, btrfs, none];

/** The order where nobody says one. The others take space that is not asof's, or preserve nothing: they want to be named. */
export const USUAL: readonly string[] = [cow.name, reflink.name];

/** Throws USAGE. */
export function providerNamed(name: string): SnapshotProvider {
  const provider = PROVIDERS.find(one => one.name === name);
  if (provider) return provider;
  const known = PROVIDERS.map(one => one.name).join(', ');
  throw new AsofError('USAGE', `there is no provider ${JSON.stringify(name)}; there are: ${known}`);
}

export interface Refusal {
  readonly name: string;
  readonly why: string;
}

/**
 * Of the named providers those that can take all of `volumes` as one moment, in the order in which they are tried; and why the
 * others cannot. `least` is what was asked for in words. Throws USAGE, and PROVIDER_UNAVAILABLE where there is none.
 */
export async function providersFor(
  volumes: readonly ProviderVolume[],
  names: readonly string[] = USUAL,
  least?: Consistency,
): Promise<{ readonly usable: readonly SnapshotProvider[]; readonly refused: readonly Refusal[] }> {
  const usable: SnapshotProvider[] = [];
  const refused: Refusal[] = [];
  if (names.length === 0 || new Set(names).size !== names.length) {
    throw new AsofError(
      'USAGE',
      'an order of providers has one or more of them, each once',
      '--provider cow,reflink',
    );
  }
  for (const provider of names.map(providerNamed)) {
    const why = await refusal(provider, volumes, least);
    if (why === undefined) usable.push(provider);
    else refused.push({ name: provider.name, why });
  }
  if (usable.length > 0) return { usable, refused };
  const reasons = refused.map(({ name, why }) => `${name}: ${why}`);
  throw new AsofError(
    'PROVIDER_UNAVAILABLE',
    `no snapshot can be taken; ${reasons.join('; ')}`,
    '--provider cow',
  );
}

async function refusal(
  provider: SnapshotProvider,
  volumes: readonly ProviderVolume[],
  least: Consistency | undefined,
): Promise<string | undefined> {
  if (!provider.can.preserves && least !== undefined) return `it preserves nothing that could be ${least}`;
  if (volumes.length > 1 && !provider.can.group) return 'it cannot take several volumes as one moment';
  for (const volume of volumes) {
    const why = await provider.unavailable(volume);
    if (why !== undefined) return why;
  }
  return undefined;
}
