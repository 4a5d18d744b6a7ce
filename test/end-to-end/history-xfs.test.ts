/** A history of an XFS in use; history-files.ts has the property. */
import { filesOf } from './history-files.js';

filesOf('XFS');
