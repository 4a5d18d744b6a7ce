/**
 * From a fresh clone to a built project: system packages, node_modules, the addon, dist/. Each step is done only
 * where it is due. It uses nothing but Node's own modules, for it runs before there are others.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildAddon, buildTypeScript, mtime, ROOT } from './build.js';
import { missingPackages } from './packages.js';
import { ensurePackages, SetupError } from './system.js';

const MODULES = join(ROOT, 'node_modules');
/** Written when the optional fuse-native has been tried with its library there: it is tried once. */
const TRIED = join(MODULES, '.asof-fuse-native-tried');

/**
 * Sets up what the needs of `required` and `wanted` (scripts/packages.js) say, and builds.
 * Throws SetupError with what to type where that cannot be.
 */
export function setup(required, wanted = []) {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < 20) throw new SetupError(`Node ${process.versions.node} is too old: 20 or newer is needed`);
  ensurePackages(required, wanted);
  installModules();
  buildAddon();
  if (!buildTypeScript()) throw new SetupError('TypeScript is not installed; npm ci installs it');
}

function installModules() {
  const installed = mtime(join(MODULES, '.package-lock.json'));
  const current = installed >= mtime(join(ROOT, 'package-lock.json'));
  if (current && existsSync(join(MODULES, 'typescript')) && !fuseNativeIsDue()) return;
  console.log('installing packages (npm ci)');
  const result = spawnSync('npm', ['ci', '--include=dev', '--include=optional', '--no-progress'], {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (result.error) throw new SetupError(`npm cannot be run: ${result.error.message}`);
  if (result.status !== 0) throw new SetupError('npm ci failed');
  if (!libraryIsMissing()) writeFileSync(TRIED, '');
}

/** Its first installation is dropped by npm where libfuse2 came only after it. */
function fuseNativeIsDue() {
  return !existsSync(join(MODULES, 'fuse-native')) && !existsSync(TRIED) && !libraryIsMissing();
}

function libraryIsMissing() {
  return missingPackages(['run']).some(({ name }) => name === 'libfuse2');
}

/** Runs a script's `main`; a SetupError ends it with its message and status 1. */
export async function run(main) {
  try {
    process.exitCode = await main();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}
