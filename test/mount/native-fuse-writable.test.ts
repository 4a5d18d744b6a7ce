import t from 'tap';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { mountConformance } from './conformance.js';

// A mount that may hold live disks treats all others as ever. Another user than root meets the modes first.
const root = process.geteuid?.() === 0;
if (!root) t.plan(0, 'needs root');
else await mountConformance(t, nativeFuse, { sparse: true, direct: true, writable: true });
