import t from 'tap';
import { fuseNative } from '../../src/mount/fuse-native.js';
import { mountConformance } from './conformance.js';

await mountConformance(t, fuseNative, { sparse: false, direct: true });
