import t from 'tap';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { mountConformance } from './conformance.js';

await mountConformance(t, nativeFuse, { sparse: true, direct: true });
