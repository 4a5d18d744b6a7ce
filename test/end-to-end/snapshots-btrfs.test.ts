/** Snapshots of btrfs under load: whole after a replay, with all that was synced, and bytes that stay. */
import { snapshotsOf } from './file-system-snapshots.js';
import { BTRFS } from './protected.js';

snapshotsOf(BTRFS);
