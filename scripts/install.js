/**
 * npm's `install` step, so that `npm ci` alone leaves a program that runs: system packages that the build needs,
 * the addon, and, where the compiler is installed, dist/.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { buildAddon, buildTypeScript, ROOT } from './build.js';
import { ensurePackages, SetupError } from './system.js';

try {
  ensurePackages(['build'], ['run']);
  buildAddon();
  if (!buildTypeScript() && !existsSync(join(ROOT, 'dist/src'))) {
    console.log('dist/ is not built: npm ci, then npm prune --omit=dev, builds it and leaves it slim');
  }
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
