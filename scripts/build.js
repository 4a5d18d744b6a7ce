/**
 * Builds the addon (node-gyp) and the TypeScript (tsc), each only where its sources are newer than what is there.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findProgram } from './packages.js';
import { SetupError } from './system.js';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const ADDON = join(ROOT, 'build/Release/asof.node');
const DIST = join(ROOT, 'dist');

/** Throws SetupError where the addon does not compile. */
export function buildAddon() {
  if (!addonIsStale()) return;
  console.log('building the native addon');
  const failure = buildWithGyp(ROOT);
  if (failure !== undefined) throw new SetupError(`the native addon does not build:\n${failure}`);
}

/** Builds what the binding.gyp in `cwd` says; undefined, or what was printed where it failed. */
export function buildWithGyp(cwd, env = {}) {
  const [program, ...first] = nodeGyp();
  // A system-wide Node brings its headers; others are fetched by node-gyp once.
  const prefix = dirname(dirname(process.execPath));
  const headers = existsSync(join(prefix, 'include/node/node_version.h')) ? [`--nodedir=${prefix}`] : [];
  const args = [...first, 'configure', 'build', '--jobs=max', '--loglevel=warn', ...headers];
  const options = { cwd, encoding: 'utf8', maxBuffer: 1 << 28, env: { ...process.env, ...env } };
  const result = spawnSync(program, args, options);
  if (result.status === 0 && existsSync(join(cwd, 'build/Release/asof.node'))) return undefined;
  return `${result.stdout ?? ''}${result.stderr ?? ''}`;
}

function addonIsStale() {
  const built = mtime(ADDON);
  const sources = readdirSync(join(ROOT, 'native'), { recursive: true }).map(name =>
    join(ROOT, 'native', name),
  );
  return [join(ROOT, 'binding.gyp'), ...sources].some(path => mtime(path) > built);
}

/** The project's own node-gyp; an installation without development packages finds npm's on the PATH. */
function nodeGyp() {
  const own = join(ROOT, 'node_modules/node-gyp/bin/node-gyp.js');
  if (existsSync(own)) return [process.execPath, own];
  if (process.env.npm_config_node_gyp) return [process.execPath, process.env.npm_config_node_gyp];
  const found = findProgram('node-gyp');
  if (found) return [found];
  throw new SetupError('node-gyp is not there; npm ci installs it');
}

/**
 * Compiles src/, test/ and bench/ to dist/, and removes from dist/ what has no source any more, so that a test that
 * was deleted does not run. False where there is no compiler (an installation without development packages).
 */
export function buildTypeScript() {
  const compiler = join(ROOT, 'node_modules/typescript/bin/tsc');
  if (!existsSync(compiler) || !existsSync(join(ROOT, 'tsconfig.json'))) return false;
  removeOrphans();
  const result = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.json'], {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (result.status !== 0) throw new SetupError('the TypeScript does not compile');
  return true;
}

function removeOrphans() {
  if (!existsSync(DIST)) return;
  for (const entry of readdirSync(DIST, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/\.js(\.map)?$/.test(entry.name)) continue;
    const output = join(entry.parentPath ?? entry.path, entry.name);
    const source = join(ROOT, relative(DIST, output)).replace(/\.js(\.map)?$/, '.ts');
    if (!existsSync(source)) rmSync(output);
  }
}

/** Milliseconds since the epoch; 0 where there is no such file. */
export function mtime(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}
