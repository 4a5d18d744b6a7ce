/** Points of a volume with xfs on it, by its own map or whole: backup-maps.ts. */
import { XFS } from '../end-to-end/protected.js';
import { mapsOf } from './backup-maps.js';

mapsOf(XFS);
