/** Points of a volume with btrfs on it, by its own map or whole: backup-maps.ts. */
import { BTRFS } from '../end-to-end/protected.js';
import { mapsOf } from './backup-maps.js';

mapsOf(BTRFS);
