/** A history of a partitioned disk in use; history-files.ts has the property. */
import { filesOf } from './history-files.js';

filesOf('a partitioned disk');
