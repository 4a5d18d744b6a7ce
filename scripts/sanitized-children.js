/**
 * Loaded into every Node process of `npm run test:sanitize` (NODE_OPTIONS): a sanitizer's runtime must be the first
 * library of a process that loads a sanitized addon, so each Node that is started gets it, whatever environment it
 * was given. Other programs run without it: they are not what is tested, and some (a shell, QEMU) do not bear it.
 */
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { basename } from 'node:path';

const KEPT = ['ASOF_RUNTIME', 'ASOF_ADDON', 'NODE_OPTIONS', 'ASAN_OPTIONS', 'UBSAN_OPTIONS', 'TSAN_OPTIONS'];
/** Programs that become another one, Node among them, without ado. */
const STARTERS = ['node', 'asof', 'env', 'setpriv', basename(process.execPath)];

const own = Object.fromEntries(KEPT.map(name => [name, process.env[name] ?? '']));
const ofTap = createRequire(import.meta.resolve('@tapjs/processinfo'));
ofTap('process-on-spawn').addListener(({ env, execPath }) => {
  const { NODE_OPTIONS = '' } = env;
  Object.assign(env, own);
  // A test has options of its own for a child.
  if (!NODE_OPTIONS.includes(own.NODE_OPTIONS)) env.NODE_OPTIONS = `${own.NODE_OPTIONS} ${NODE_OPTIONS}`;
  if (STARTERS.includes(basename(execPath))) env.LD_PRELOAD = own.ASOF_RUNTIME;
  else delete env.LD_PRELOAD;
});

// Started by some other program, such as a shell: once more, with the runtime.
if (!process.env.LD_PRELOAD) {
  const args = [...process.execArgv, ...process.argv.slice(1)];
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
  process.exit(status ?? 1);
}
