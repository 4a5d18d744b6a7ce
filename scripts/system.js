/**
 * System packages: sees what is missing and installs it with apt, without a question, where it may.
 *
 * Nothing is asked of apt where nothing is missing, so that a machine without apt does as well.
 */
import { spawnSync } from 'node:child_process';
import { findProgram, missingPackages } from './packages.js';

/** A set-up that cannot go on; the message is for the user and says what to type. */
export class SetupError extends Error {}

/**
 * Installs what is missing for `required`, which throws SetupError where it cannot be had, and for `wanted`, whose
 * absence is only told.
 */
export function ensurePackages(required, wanted = []) {
  const missing = missingPackages([...required, ...wanted]);
  if (missing.length === 0) return;
  const names = missing.map(({ name }) => name);
  if (process.getuid?.() === 0 && findProgram('apt-get')) {
    console.log(`installing Debian packages: ${names.join(' ')}`);
    install(names);
  }
  const still = missingPackages([...required, ...wanted]);
  if (still.length === 0) return;
  const line = `apt-get install --no-install-recommends ${still.map(({ name }) => name).join(' ')}`;
  const fatal = still.filter(({ need }) => required.includes(need));
  const why = still.map(({ name, what }) => `  ${name}: ${what}`).join('\n');
  if (fatal.length > 0) throw new SetupError(`missing system packages:\n${why}\nas root: ${line}`);
  console.log(`not there, so that what needs them is skipped:\n${why}\nas root: ${line}`);
}

/** The lists are fetched only where the installation fails without it: a fresh container has none. */
function install(names) {
  if (apt(['install', '-y', '--no-install-recommends', ...names], 'pipe')) return;
  apt(['update', '-q'], 'pipe');
  if (!apt(['install', '-y', '--no-install-recommends', ...names], 'pipe')) {
    // One package that this release does not have must not keep the others out.
    for (const name of names) apt(['install', '-y', '--no-install-recommends', name], 'inherit');
  }
}

function apt(args, stdio) {
  const result = spawnSync('apt-get', ['-o', 'DPkg::Lock::Timeout=300', ...args], {
    stdio: ['ignore', stdio, stdio],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' },
  });
  return result.status === 0;
}
