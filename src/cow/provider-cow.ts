/** The provider `cow`: our own layer. It needs the origin and the store, takes groups, and tracks to the chunk. */
import { errnoOf } from '../errors.js';
import { loadAddon } from '../native.js';
import { DRAIN_MS } from './hold.js';
import type { SnapshotProvider } from './provider.js';

export const cow: SnapshotProvider = {
  name: 'cow',
  can: {
    group: true,
    freeze: false,
    persistent: true,
    tracked: true,
    independent: false,
    release: true,
    preserves: true,
  },

  async unavailable() {
    return undefined;
  },

  take(requests, group, timeoutMs) {
    const volumes = requests.map(({ volume, id }) => ({ volume: volume.native, id }));
    return loadAddon().CowVolume.snapshot(volumes, group, Math.min(DRAIN_MS, timeoutMs));
  },

  list(volume) {
    return volume.native.snapshots();
  },

  states(volume) {
    const inMemory = volume.definition.store === undefined;
    const missing = inMemory ? 'its store was in memory, and is gone' : 'the store does not know it';
    const all = new Map(volume.native.snapshots().map(one => [one.id, one]));
    return id => {
      const found = all.get(id);
      if (!found) return { state: 'unknown', why: missing };
      return { state: found.state, why: found.why || found.error };
    };
  },

  open(volume, { id }) {
    const native = volume.native.disk(id);
    const { size, sectorSize } = volume.definition;
    return { size, sectorSize, native, close: () => native.close() };
  },

  async delete(volume, { id }) {
    try {
      await volume.native.delete(id);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  },

  release(volume, { id }, runs, own) {
    return volume.native.release(id, runs, own);
  },

  preserved(volume, { id }, limit) {
    return volume.native.preserved(id, limit);
  },
};
