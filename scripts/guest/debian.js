/**
 * Debian's packages for a guest, of this host's release, since the libraries beside them are this host's: fetched once,
 * unpacked into build-guest, never installed.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ROOT } from '../build.js';
import { run } from './kernel.js';

/** The folder `name` of build-guest, with what is in the packages. */
export function unpacked(name, packages) {
  const folder = path.join(ROOT, 'build-guest', name);
  if (fs.existsSync(folder)) return folder;
  const debs = `${folder}.debs`;
  const unfinished = `${folder}.new`;
  for (const each of [debs, unfinished]) fs.rmSync(each, { recursive: true, force: true });
  fs.mkdirSync(debs, { recursive: true });
  console.log(`# fetching ${packages.join(', ')}`);
  run('apt-get', ['-qq', '-o', 'APT::Sandbox::User=root', 'download', ...packages], { cwd: debs });
  for (const deb of fs.readdirSync(debs)) run('dpkg', ['-x', path.join(debs, deb), unfinished]);
  fs.rmSync(debs, { recursive: true });
  fs.renameSync(unfinished, folder);
  return folder;
}

/** The shared libraries in a folder of packages go to where programs of the guest look for them. */
export function copyLibraries(folder, root) {
  for (const library of run('find', [folder, '-name', '*.so.*']).split('\n').filter(Boolean)) {
    const place = path.join(root, 'lib', 'x86_64-linux-gnu', path.basename(library));
    fs.mkdirSync(path.dirname(place), { recursive: true });
    fs.copyFileSync(fs.realpathSync(library), place);
  }
}
