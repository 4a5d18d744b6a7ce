/** A history of an ext4 in use; history-files.ts has the property. */
import { filesOf } from './history-files.js';

filesOf('ext4');
