/**
 * `npm run bench [-- OPTIONS]` and `npm run bench:cow [-- OPTIONS]`: sets up, with the peers that are measured, and runs
 * bench/run.ts, or bench/cow/run.ts where the first argument is `cow`.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './build.js';
import { run, setup } from './setup.js';

await run(() => {
  setup(['build', 'demo'], ['run', 'test', 'bench']);
  process.on('SIGINT', () => {}); // The benchmark cleans up and ends; then this does.
  const cow = process.argv[2] === 'cow';
  const script = join(ROOT, cow ? 'dist/bench/cow/run.js' : 'dist/bench/run.js');
  const options = process.argv.slice(cow ? 3 : 2);
  return spawnSync(process.execPath, [script, ...options], { stdio: 'inherit' }).status ?? 1;
});
