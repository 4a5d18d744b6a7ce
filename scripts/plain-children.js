/**
 * Loaded into the process of every test file (package.json, "tap"): tap would have each Node process that a test
 * starts load tap's hooks. They cannot load bin/asof, whose name has no extension, and a server that a user runs has
 * none of them.
 */
import { createRequire } from 'node:module';

const ofTap = createRequire(import.meta.resolve('@tapjs/processinfo'));
ofTap('process-on-spawn').removeAllListeners();
delete process.env.NODE_OPTIONS;
