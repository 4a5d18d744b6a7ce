/** Opens the native engine of a volume, as its definition says. */
import { AsofError, errnoOf } from '../errors.js';
import { type CowEvent, type CowFound, loadAddon, type NativeCowVolume } from '../native.js';
import { REGION_SIZE, type VolumeDefinition } from './definition.js';
import { bootId } from './identity.js';
import type { Origin } from './origin.js';
import { holderHint } from './store.js';

/** Bytes left in the store at which the low-water event comes: a tenth of the limit, or this. */
const LOW_WATER = 64 * 2 ** 20;

export interface EngineOptions {
  /** The volume is new. */
  readonly create: boolean;
  /** Above every epoch that is on record. */
  readonly leastEpoch: number;
  readonly event: (event: CowEvent) => void;
}

/** `descriptors`: of the store, unless that is in memory, and of the tracker. The engine duplicates them. */
export function openEngine(
  definition: VolumeDefinition,
  origin: Origin,
  descriptors: readonly number[],
  options: EngineOptions,
): Promise<{ readonly volume: NativeCowVolume; readonly found: CowFound }> {
  const { id, size, sectorSize, chunkSize, durability, onCowError, cowTimeoutMs, storeLimit } = definition;
  const [first, second] = descriptors;
  return loadAddon().CowVolume.open({
    ...options,
    volume: id,
    size,
    sectorSize,
    chunkSize,
    regionSize: Math.max(REGION_SIZE, chunkSize),
    durability,
    onError: onCowError,
    timeoutMs: cowTimeoutMs,
    limit: storeLimit,
    lowWater: storeLimit > 0 ? Math.floor(storeLimit / 10) : LOW_WATER,
    bootId: bootId(),
    origin: origin.fd,
    store: second === undefined ? null : first!,
    tracker: second ?? first!,
  });
}

/** What the engine rejects with, in words. */
export function engineError(error: unknown, name: string): unknown {
  if (error instanceof AsofError || errnoOf(error) === '') return error;
  const why = error instanceof Error ? error.message : String(error);
  return new AsofError(
    'STORE_UNUSABLE',
    `the volume ${name} cannot be opened: ${why} (${errnoOf(error)})`,
    errnoOf(error) === 'EBUSY' ? holderHint(why) : '',
    { cause: error },
  );
}
