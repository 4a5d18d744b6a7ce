/**
 * A volume to test on, with defaults; and random numbers that a seed repeats.
 */
import { randomUUID } from 'node:crypto';
import type { CowEvent, CowOptions } from '../../src/native.js';
import { loadAddon } from '../../src/native.js';

export const { CowVolume, CowMachine } = loadAddon();

export const BOOT = '11111111-2222-4333-8444-555555555555';

type Given = Partial<CowOptions> & Pick<CowOptions, 'origin' | 'size'>;

export function optionsOf(given: Given): CowOptions {
  return {
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
    bootId: BOOT,
    store: null,
    tracker: null,
    event: (_event: CowEvent) => {},
    ...given,
  };
}

export async function openVolume(given: Given) {
  const { volume, found } = await CowVolume.open(optionsOf(given));
  return { volume, found, live: volume.live() };
}

type Volume = Awaited<ReturnType<typeof openVolume>>['volume'];

/** Takes a snapshot of one volume; its id. */
export async function snapshot(volume: Volume): Promise<string> {
  const id = randomUUID();
  await CowVolume.snapshot([{ volume, id }], randomUUID(), 10_000);
  return id;
}

export function epochOf(volume: Volume, id: string): number {
  const found = volume.snapshots().find(each => each.id === id);
  if (!found) throw new Error(`no snapshot ${id}`);
  return found.epoch;
}

export async function readAll(disk: { read(offset: number, into: Uint8Array): Promise<void> }, size: number) {
  const all = Buffer.alloc(size);
  await disk.read(0, all);
  return all;
}

/** mulberry32: a number from 0 to n - 1. */
export function randomOf(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return n => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

/** Bytes that differ between any two calls of one generator. */
export function filled(length: number, stamp: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at + 8 <= length; at += 8) {
    bytes.writeUInt32LE(stamp >>> 0, at);
    bytes.writeUInt32LE((at ^ 0x5a5a5a5a) >>> 0, at + 4);
  }
  return bytes;
}

/** The code of what `promise` rejects with; '' where it resolves. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return '';
  } catch (error) {
    return (error as { code?: string }).code ?? 'no code';
  }
}
