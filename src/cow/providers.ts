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

/** The provider of that name, or the first that can take all of `volumes` as one moment. Throws PROVIDER_UNAVAILABLE. */
export async function chooseProvider(
  volumes: readonly ProviderVolume[],
  name: string | undefined,
): Promise<SnapshotProvider> {
  const reasons: string[] = [];
  for (const provider of name === undefined ? PROVIDERS : [providerNamed(name)]) {
    const why = await refusal(provider, volumes);
    if (why === undefined) return provider;
    reasons.push(`${provider.name}: ${why}`);
  }
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
