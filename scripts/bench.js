/**
 * `npm run bench [-- OPTIONS]`: sets up, with the peers that are measured, and runs bench/run.ts.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './build.js';
import { run, setup } from './setup.js';

await run(() => {
  setup(['build', 'demo'], ['run', 'test', 'bench']);
  process.on('SIGINT', () => {}); // The benchmark cleans up and ends; then this does.
  const script = join(ROOT, 'dist/bench/run.js');
  return spawnSync(process.execPath, [script, ...process.argv.slice(2)], { stdio: 'inherit' }).status ?? 1;
});
