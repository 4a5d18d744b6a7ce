/**
 * What the guest runs: a read-only ext4 disk of busybox, this Node, this build and a few programs, and a small initrd that
 * finds it. They are no part of the guest's memory, so that a guest with little of it can be had.
 *
 * The kernel hands what its command line says as `name=value` to init's environment, and init to the test: `test=NAME`
 * runs /test/NAME.sh.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ROOT } from '../build.js';
import { findProgram } from '../packages.js';
import { copyModule, run, scratch } from './kernel.js';

/** Of the host, beside busybox and Node. */
const PROGRAMS = ['mke2fs', 'e2fsck'];
/** Mount points, and folders that the tests write to. */
/** What of the project a guest needs. */
const OURS = [
  'bin',
  'dist/src',
  'dist/test/guest',
  'dist/test/mount/volume.js',
  'docs/config.schema.json',
  'package.json',
];
const FOLDERS = ['dev', 'proc', 'sys', 'tmp', 'run', 'root', 'm', 'state'];

/** What the console says when the kernel has come up. */
export const BEGUN = '# the guest has begun';

const INITRD = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /virtio_blk.ko
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o ro /dev/vda /new
for each in proc sys dev; do /bin/busybox mount --move /$each /new/$each; done
exec /bin/busybox switch_root /new /init
`;

const INIT = `#!/bin/busybox sh
echo '${BEGUN}'
export PATH=/bin:/usr/bin HOME=/root XDG_RUNTIME_DIR=/run TERM=dumb
for each in tmp run root m; do mount -t tmpfs -o size=64m $each /$each; done
ip link set lo up
insmod /lib/loop.ko
sh /test/$test.sh
sync
poweroff -f
`;

/** Copies an executable or a library with the libraries that it needs, each at its own path. */
export function copyBinary(from, root, to = from) {
  const place = path.join(root, to);
  fs.mkdirSync(path.dirname(place), { recursive: true });
  fs.copyFileSync(fs.realpathSync(from), place);
  for (const [library] of run('ldd', [from]).matchAll(/\/[^\s()]+/g)) {
    const copy = path.join(root, library);
    if (fs.existsSync(copy)) continue;
    fs.mkdirSync(path.dirname(copy), { recursive: true });
    fs.copyFileSync(fs.realpathSync(library), copy);
  }
}

function copyAsof(root) {
  copyBinary(path.join(ROOT, 'build', 'Release', 'asof.node'), root, '/asof/build/Release/asof.node');
  for (const name of ['asof-freezer', 'asof-runner']) {
    copyBinary(path.join(ROOT, 'build', 'Release', name), root, `/asof/build/Release/${name}`);
  }
  for (const name of OURS) {
    fs.cpSync(path.join(ROOT, name), path.join(root, 'asof', name), { recursive: true });
  }
  const packages = run('npm', ['ls', '--omit=dev', '--omit=optional', '--all', '--parseable'], { cwd: ROOT });
  for (const place of packages.split('\n')) {
    const name = path.relative(ROOT, place);
    if (!name.startsWith('node_modules') || name.includes('fuse-native')) continue;
    fs.cpSync(place, path.join(root, 'asof', name), { recursive: true });
  }
}

/** Makes both, in a `folder` of this run; `more` may put further files into the root of the disk. */
export function makeSystem(more = () => {}) {
  const folder = scratch();
  const root = path.join(folder, 'root');
  for (const name of [...FOLDERS, 'bin', 'lib']) fs.mkdirSync(path.join(root, name), { recursive: true });
  fs.copyFileSync('/bin/busybox', path.join(root, 'bin', 'busybox')); // the static one: it has no libraries
  for (const name of run('/bin/busybox', ['--list']).split('\n')) {
    if (name && name !== 'busybox') fs.symlinkSync('busybox', path.join(root, 'bin', name));
  }
  for (const name of PROGRAMS) {
    const place = path.join(root, 'bin', name);
    fs.rmSync(place, { force: true });
    copyBinary(findProgram(name) ?? name, root, path.join('/bin', name));
  }
  copyBinary(process.execPath, root, '/usr/bin/node');
  copyAsof(root);
  copyModule('loop', path.join(root, 'lib', 'loop.ko'));
  fs.cpSync(path.join(ROOT, 'test', 'guest'), path.join(root, 'test'), {
    recursive: true,
    filter: from => !from.endsWith('.ts'),
  });
  fs.writeFileSync(path.join(root, 'init'), INIT, { mode: 0o755 });
  more(root);
  const disk = path.join(folder, 'system.ext4');
  makeExt4(disk, '512M', root);
  fs.rmSync(root, { recursive: true });
  return { initrd: makeInitrd(folder), disk, folder };
}

function makeInitrd(folder) {
  const root = path.join(folder, 'initial');
  for (const name of ['bin', 'dev', 'proc', 'sys', 'new'])
    fs.mkdirSync(path.join(root, name), { recursive: true });
  fs.copyFileSync('/bin/busybox', path.join(root, 'bin', 'busybox'));
  copyModule('virtio_blk', path.join(root, 'virtio_blk.ko'));
  fs.writeFileSync(path.join(root, 'init'), INITRD, { mode: 0o755 });
  const initrd = path.join(folder, 'initrd');
  run('sh', ['-c', `find . | busybox cpio -o -H newc 2>/dev/null >'${initrd}'`], { cwd: root });
  return initrd;
}

/** An ext4 with the files of a folder, in a file that is made anew. */
export function makeExt4(file, size, folder) {
  fs.rmSync(file, { force: true });
  const program = findProgram('mke2fs') ?? 'mke2fs';
  const from = folder === undefined ? [] : ['-d', folder];
  const whole = 'lazy_itable_init=0,lazy_journal_init=0';
  run(program, ['-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0', '-E', whole, ...from, file, size]);
}
