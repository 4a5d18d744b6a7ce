/**
 * `npm run bench [-- OPTIONS]`, `npm run bench:cow` and `npm run bench:history`: sets up, with the peers that are measured, and
 * runs bench/run.ts, or the run.ts of the folder that the first argument names.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './build.js';
import { run, setup } from './setup.js';

await run(() => {
  setup(['build', 'demo'], ['run', 'test', 'bench']);
  process.on('SIGINT', () => {}); // The benchmark cleans up and ends; then this does.
  const part = ['cow', 'history'].find(name => name === process.argv[2]);
  const script = join(ROOT, 'dist/bench', part ?? '', 'run.js');
  const options = process.argv.slice(part ? 3 : 2);
  return spawnSync(process.execPath, [script, ...options], { stdio: 'inherit' }).status ?? 1;
});
