/** A history of an NTFS in use; history-files.ts has the property. */
import { filesOf } from './history-files.js';

filesOf('NTFS');
