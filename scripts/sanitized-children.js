/**
 * Loaded into every Node process of `npm run test:sanitize` (NODE_OPTIONS): a sanitizer's runtime must be the first
 * library of a process that loads a sanitized addon, so each Node that is started gets it, whatever environment it
 * was given. Other programs run without it: they are not what is tested, and some do not bear it.
 */
import { createRequire } from 'node:module';
import { basename } from 'node:path';

const KEPT = ['LD_PRELOAD', 'NODE_OPTIONS', 'ASOF_ADDON', 'ASAN_OPTIONS', 'UBSAN_OPTIONS', 'TSAN_OPTIONS'];
const own = Object.fromEntries(KEPT.flatMap(name => (process.env[name] ? [[name, process.env[name]]] : [])));

const ofTap = createRequire(import.meta.resolve('@tapjs/processinfo'));
ofTap('process-on-spawn').addListener(({ env, execPath, args }) => {
  const program = basename(execPath === '/usr/bin/env' ? (args[1] ?? '') : execPath);
  if (['node', 'asof', basename(process.execPath)].includes(program)) Object.assign(env, own);
  else delete env.LD_PRELOAD;
});
