/**
 * The provider `none`: nothing is preserved. Commands and writers around the moment have run, its time and what changed
 * since are known, and that is all: what stands for the snapshot is the live volume, whose bytes go on changing.
 *
 * It is taken where the user names it alone. It has no disk: the bytes of now under the name of a moment would be a lie.
 */
import { AsofError } from '../errors.js';
import type { SnapshotProvider } from './provider.js';

const WHY = 'nothing was preserved: it stands for the live volume, which goes on changing';

export const none: SnapshotProvider = {
  name: 'none',
  can: {
    group: true,
    freeze: false,
    persistent: true,
    tracked: false,
    independent: true,
    release: false,
    preserves: false,
  },

  async unavailable() {
    return undefined;
  },

  async take(requests) {
    const epochs = requests.map(({ volume }) => volume.native.activity().epoch);
    return { time: Date.now(), holdNs: 0, switchNs: 0, epochs };
  },

  list() {
    return [];
  },

  states() {
    return () => ({ state: 'none', why: WHY });
  },

  open(_volume, { id }) {
    throw new AsofError(
      'SNAPSHOT_FAILED',
      `${id} has no disk: ${WHY}`,
      'asof volume show NAME tells the live device',
    );
  },

  async delete() {},

  async release() {
    throw Object.assign(new Error(WHY), { code: 'EOPNOTSUPP' });
  },
};
