/** The providers, in the order in which one is chosen where nobody says which. A new one is one file and one line here. */
import { AsofError } from '../errors.js';
import type { ProviderVolume, SnapshotProvider } from './provider.js';
import { cow } from './provider-cow.js';
import { reflink } from './provider-reflink.js';

export const PROVIDERS: readonly SnapshotProvider[] = [cow, reflink];

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
 * Of the named providers, or of all, those that can take all of `volumes` as one moment, in the order in which they are
 * tried; and why the others cannot. Throws PROVIDER_UNAVAILABLE where there is none.
 */
export async function providersFor(
  volumes: readonly ProviderVolume[],
  names: readonly string[] | undefined,
): Promise<{ readonly usable: readonly SnapshotProvider[]; readonly refused: readonly Refusal[] }> {
  const usable: SnapshotProvider[] = [];
  const refused: Refusal[] = [];
  for (const provider of names === undefined ? PROVIDERS : names.map(providerNamed)) {
    const why = await refusal(provider, volumes);
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
): Promise<string | undefined> {
  if (volumes.length > 1 && !provider.can.group) return 'it cannot take several volumes as one moment';
  for (const volume of volumes) {
    const why = await provider.unavailable(volume);
    if (why !== undefined) return why;
  }
  return undefined;
}
