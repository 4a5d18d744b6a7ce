/**
 * `npm run bench [-- OPTIONS]`, and `npm run bench:NAME [-- OPTIONS]` for each folder of bench/: sets up, with the peers that
 * are measured, and runs bench/run.ts, or bench/NAME/run.ts where the first argument is such a name.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './build.js';
import { run, setup } from './setup.js';

/** Folders of bench/. */
const PARTS = ['cow', 'formats', 'history'];

await run(() => {
  setup(['build', 'demo'], ['run', 'test', 'bench']);
  process.on('SIGINT', () => {}); // The benchmark cleans up and ends; then this does.
  const [name, ...rest] = process.argv.slice(2);
  const part = PARTS.includes(name) ? name : '';
  const script = join(ROOT, 'dist/bench', part, 'run.js');
  const options = part ? rest : process.argv.slice(2);
  return spawnSync(process.execPath, [script, ...options], { stdio: 'inherit' }).status ?? 1;
});
