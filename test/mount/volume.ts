/**
 * A volume over a temporary file, and a mount that shows its live device and its snapshots.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CowOptions, NativeCowVolume, NativeReadable } from '../../src/native.js';
import { loadAddon } from '../../src/native.js';
import type { Workshop } from './fixture.js';

export const WHEN = new Date('2026-11-21T10:15:00.250Z');

export interface MadeVolume {
  readonly volume: NativeCowVolume;
  readonly live: { readonly size: number; readonly native: NativeReadable };
  /** The file that holds the volume. */
  readonly origin: string;
  /** A disk for the mount of a new snapshot. */
  snapshot(): Promise<{ readonly size: number; readonly native: NativeReadable }>;
  close(): Promise<void>;
}

const OPTIONS = {
  volume: '01234567-89ab-4cde-8f01-23456789abcd',
  sectorSize: 512,
  chunkSize: 65536,
  regionSize: 1 << 20,
  durability: 'process',
  onError: 'break-snapshot',
  timeoutMs: 0,
  limit: 0,
  lowWater: 0,
  create: true,
  bootId: '11111111-2222-4333-8444-555555555555',
  store: null,
  tracker: null,
  event: () => {},
} as const satisfies Partial<CowOptions>;

let count = 0;

/** `bytes` is what the volume holds at first, or its size. `options`: another origin, a store, … */
export async function makeVolume(
  workshop: Pick<Workshop, 'folder'>,
  bytes: Buffer | number,
  options: Partial<CowOptions> = {},
): Promise<MadeVolume> {
  const { CowVolume } = loadAddon();
  const size = typeof bytes === 'number' ? bytes : bytes.length;
  const origin = join(workshop.folder, `volume${count++}`);
  writeFileSync(origin, typeof bytes === 'number' ? '' : bytes);
  truncateSync(origin, size);
  const fd = openSync(origin, 'r+');
  const { volume } = await CowVolume.open({ ...OPTIONS, size, origin: fd, ...options });
  closeSync(fd); // it has one of its own
  return {
    volume,
    live: { size, native: volume.live() },
    origin,
    async snapshot() {
      const id = randomUUID();
      await CowVolume.snapshot([{ volume, id }], randomUUID(), 10_000);
      return { size, native: volume.disk(id) };
    },
    close: () => volume.close(),
  };
}
