/**
 * What a volume is: the words in which it was added. Written once (volume.json); what changes stands in state.json.
 */
import { AsofError } from '../errors.js';
import type { CowDurability, OnCowError } from '../native.js';

export interface VolumeDefinition {
  readonly id: string;
  readonly name: string;
  /** Absolute, without symbolic links at the time of adding. */
  readonly origin: string;
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly chunkSize: number;
  readonly durability: CowDurability;
  readonly onCowError: OnCowError;
  /** Milliseconds after which a copy counts as failed; 0 is never. */
  readonly cowTimeoutMs: number;
  /** Path of a file or block device; undefined for one in memory. */
  readonly store?: string;
  /** Bytes; 0 is no limit. */
  readonly storeLimit: number;
  /** Milliseconds since 1970. */
  readonly added: number;
}

/** Of a volume of which nothing can be believed but its id. */
export function unknownDefinition(id: string): VolumeDefinition {
  return {
    id,
    name: id,
    origin: '',
    size: 0,
    sectorSize: 512,
    chunkSize: 0,
    durability: 'power',
    onCowError: 'break-snapshot',
    cowTimeoutMs: 0,
    storeLimit: 0,
    added: 0,
  };
}

/** What a user says when adding one. */
export interface VolumeRequest {
  readonly name: string;
  /** Absolute. */
  readonly origin: string;
  /** Absolute; 'memory'; where the defaults say where absent. */
  readonly store?: string;
  readonly storeLimit?: number;
  readonly chunkSize?: number;
  readonly durability?: CowDurability;
  readonly onCowError?: OnCowError;
  readonly cowTimeoutMs?: number;
}

/** What a volume is like whose request does not say. */
export interface VolumeDefaults extends Omit<VolumeRequest, 'name' | 'origin' | 'store'> {
  /** Absolute: an existing folder in which stores are made; each volume's folder in the state directory where absent. */
  readonly stores?: string;
}

/** A volume that a configuration wants there. */
export interface DeclaredVolume {
  /** Of the configuration, for messages: its file and line. */
  readonly where: string;
  readonly request: VolumeRequest;
}

export const DEFAULTS = {
  chunkSize: 65536,
  durability: 'power',
  onCowError: 'break-snapshot',
  cowTimeoutMs: 0,
  storeLimit: 0,
} as const;

/** Bytes of a hot region of the tracker, and the smallest and largest chunk. */
export const REGION_SIZE = 16 * 2 ** 20;
/** Bytes that a store needs besides a few chunks: its first block, and the journal with its reserve. */
const STORE_LEAST = 2 ** 18;
const CHUNK_MIN = 4096;
const CHUNK_MAX = 2 * 2 ** 20;

/** The folder's name in the mount: no separator, no @, no leading dot or dash. */
export const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** Throws USAGE. */
export function checkRequest({
  name,
  chunkSize = DEFAULTS.chunkSize,
  cowTimeoutMs = 0,
  storeLimit = 0,
}: VolumeRequest): void {
  if (!NAME.test(name)) {
    throw new AsofError(
      'USAGE',
      `the name ${JSON.stringify(name)} is not allowed`,
      'allowed are up to 63 letters, digits, dots, dashes and underscores, beginning with a letter or a digit',
    );
  }
  if (chunkSize < CHUNK_MIN || chunkSize > CHUNK_MAX || !Number.isInteger(Math.log2(chunkSize))) {
    throw new AsofError(
      'USAGE',
      `a chunk of ${chunkSize} bytes is not allowed`,
      'a power of two from 4K to 2M',
    );
  }
  if (!(cowTimeoutMs >= 0 && cowTimeoutMs <= 86_400_000)) {
    throw new AsofError(
      'USAGE',
      `a time-out of ${cowTimeoutMs / 1000} seconds is not allowed`,
      'from 0, which is none, to 86400',
    );
  }
  if (!(Number.isSafeInteger(storeLimit) && storeLimit >= 0)) {
    throw new AsofError('USAGE', `a store limit of ${storeLimit} bytes is not allowed`);
  }
  const least = STORE_LEAST + 4 * chunkSize;
  if (storeLimit > 0 && storeLimit < least) {
    throw new AsofError(
      'USAGE',
      `a store limit of ${storeLimit} bytes is too small for chunks of ${chunkSize}: the first write would fill it`,
      `at least ${least}; 0 is no limit`,
    );
  }
}
