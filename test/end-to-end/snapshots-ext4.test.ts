/** Snapshots of ext4 under load: whole after a replay, with all that was synced, and bytes that stay. */
import { snapshotsOf } from './file-system-snapshots.js';
import { EXT4 } from './protected.js';

snapshotsOf(EXT4);
