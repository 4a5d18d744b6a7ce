/** Points of a volume with ext4 on it, by its own map or whole: backup-maps.ts. */
import { EXT4 } from '../end-to-end/protected.js';
import { mapsOf } from './backup-maps.js';

mapsOf(EXT4);
