/** Maps of the file systems of Windows: file-system-maps.ts. */
import { mapsOf, WINDOWS } from './file-system-maps.js';

mapsOf(WINDOWS);
