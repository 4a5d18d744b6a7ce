/** Debian's own kernel for the guest (trixie-backports), unpacked into build-guest, never installed; fetched once. */
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ROOT } from '../build.js';

const WORK = path.join(ROOT, 'build-guest');
const SUITE = 'trixie-backports';
/** The series that has CONFIG_FUSE_IO_URING and was tried. */
const KERNEL = /^linux-image-6\.18\.[0-9]+\+deb13-cloud-amd64$/;

export const run = (command, args, options = {}) =>
  execFileSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 28,
    ...options,
  });

/** A folder for what one run makes; it goes when this process ends. */
export function scratch() {
  fs.mkdirSync(WORK, { recursive: true });
  const folder = fs.mkdtempSync(path.join(WORK, 'run-'));
  process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The mirror that this machine's own apt uses. */
function mirror() {
  const folder = '/etc/apt/sources.list.d';
  const lists = ['/etc/apt/sources.list', ...fs.readdirSync(folder).map(name => path.join(folder, name))];
  for (const list of lists.filter(name => fs.existsSync(name))) {
    const found = /^(?:URIs:|deb)\s+.*?(https?:\/\/\S+)/m.exec(fs.readFileSync(list, 'utf8'));
    if (found) return found[1];
  }
  throw new Error('no Debian mirror in /etc/apt: cannot fetch a kernel');
}

/** The path of a kernel with FUSE over io_uring. */
export function kernel() {
  const boot = path.join(WORK, 'kernel', 'boot');
  const present = () => fs.existsSync(boot) && fs.readdirSync(boot).find(name => name.startsWith('vmlinuz'));
  if (!present()) {
    const apt = path.join(WORK, 'apt');
    fs.mkdirSync(path.join(apt, 'lists', 'partial'), { recursive: true });
    fs.mkdirSync(path.join(apt, 'cache', 'archives', 'partial'), { recursive: true });
    fs.writeFileSync(path.join(apt, 'list'), `deb ${mirror()} ${SUITE} main\n`);
    const options = [
      ['Dir::Etc::sourcelist', path.join(apt, 'list')],
      ['Dir::Etc::sourceparts', '-'],
      ['Dir::State::lists', path.join(apt, 'lists')],
      ['Dir::Cache', path.join(apt, 'cache')],
    ].flatMap(([key, value]) => ['-o', `${key}=${value}`]);
    run('apt-get', [...options, '-qq', 'update']);
    const names = run('apt-cache', [...options, 'search', '--names-only', '^linux-image-']).split('\n');
    const newest = names
      .map(line => line.split(' ')[0])
      .filter(name => KERNEL.test(name))
      .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
      .at(-1);
    if (!newest) throw new Error(`no package in ${SUITE} matches ${KERNEL}`);
    console.log(`# fetching ${newest}`);
    run('apt-get', [...options, '-qq', 'download', newest], { cwd: apt });
    const deb = fs.readdirSync(apt).find(name => name.endsWith('.deb'));
    run('dpkg', ['-x', path.join(apt, deb), path.join(WORK, 'kernel')]);
    fs.rmSync(path.join(apt, deb));
  }
  return path.join(boot, present());
}

/** A module of that kernel, as the guest loads it: by its name, such as `loop`, unpacked to the file `to`. */
export function copyModule(name, to) {
  const version = path.basename(kernel()).replace('vmlinuz-', '');
  const modules = path.join(WORK, 'kernel', 'usr', 'lib', 'modules', version, 'kernel');
  const [file] = run('find', [modules, '-name', `${name}.ko.xz`]).split('\n');
  if (!file) throw new Error(`${version} has no module ${name}`);
  fs.writeFileSync(to, run('xz', ['-dc', file], { encoding: 'buffer' }));
}
