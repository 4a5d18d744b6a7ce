/**
 * Tests what only another kernel can show: FUSE over io_uring, which this host's administrator may have switched off
 * (/sys/module/fuse/parameters/enable_uring; never ours to write).
 *
 *   npm run test:guest
 *
 * Boots Debian's own kernel (trixie-backports, unpacked into build/guest, never installed) in QEMU's emulation with an
 * initrd of busybox, this Node, this build and a few images; test/guest/uring.sh runs inside. Needs a Debian host with
 * qemu-system-x86, qemu-utils and busybox-static, and about 200 MB in build/.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';

const ROOT = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), '..');
const WORK = path.join(ROOT, 'build', 'guest');
const SUITE = 'trixie-backports';
/** The series that has CONFIG_FUSE_IO_URING and was tried. */
const KERNEL = /^linux-image-6\.18\.[0-9]+\+deb13-cloud-amd64$/;
const BOOT_SECONDS = 300;

const run = (command, args, options = {}) =>
  execFileSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 28,
    ...options,
  });

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

/** The path of a kernel with FUSE over io_uring; fetched once. */
function kernel() {
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

/** Copies an executable or a library with the libraries that it needs, each at its own path. */
function copyBinary(from, root, to = from) {
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

/** Images of each kind that the session reads in another way, each with the digest of its content. */
function makeImages(folder) {
  fs.mkdirSync(folder, { recursive: true });
  const at = name => path.join(folder, name);
  const pieces = [];
  for (let i = 0; i < 128; i++) {
    pieces.push(
      i % 4 === 3
        ? Buffer.alloc(65536)
        : i % 4 === 2
          ? randomBytes(65536)
          : Buffer.alloc(65536, `piece ${i}\n`),
    );
  }
  const content = Buffer.concat(pieces);
  const digest = bytes => createHash('sha256').update(bytes).digest('hex');
  fs.writeFileSync(at('plain.raw'), content);
  const convert = (name, ...options) =>
    run('qemu-img', ['convert', '-q', '-O', 'qcow2', ...options, at('plain.raw'), at(name)]);
  convert('plain.qcow2');
  convert('zlib.qcow2', '-c');
  convert('zstd.qcow2', '-c', '-o', 'compression_type=zstd');
  for (const name of ['plain.raw', 'plain.qcow2', 'zlib.qcow2', 'zstd.qcow2']) {
    fs.writeFileSync(at(`${name}.sha256`), digest(content));
  }
  run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'zstd.qcow2', '-F', 'qcow2', at('overlay.qcow2')]);
  run('qemu-io', ['-c', 'write -P 0x5a 1000k 300k', at('overlay.qcow2')]);
  run('qemu-img', ['convert', '-q', '-O', 'raw', at('overlay.qcow2'), path.join(WORK, 'overlay.raw')]);
  fs.writeFileSync(at('overlay.qcow2.sha256'), digest(fs.readFileSync(path.join(WORK, 'overlay.raw'))));
  fs.copyFileSync(at('plain.qcow2'), at('short.qcow2'));
  fs.truncateSync(at('short.qcow2'), fs.statSync(at('short.qcow2')).size / 2);
  fs.writeFileSync(at('short.qcow2.sha256'), 'damaged');
}

/** The initrd's content; returns its path. */
function makeInitrd() {
  const root = path.join(WORK, 'root');
  fs.rmSync(root, { recursive: true, force: true });
  fs.mkdirSync(root, { recursive: true });
  fs.mkdirSync(path.join(root, 'bin'));
  fs.copyFileSync('/bin/busybox', path.join(root, 'bin', 'busybox')); // the static one: it has no libraries
  copyBinary(process.execPath, root, '/usr/bin/node');
  copyBinary(path.join(ROOT, 'build', 'Release', 'asof.node'), root, '/asof/build/Release/asof.node');
  const served = ['dist/test/guest/live.js', 'dist/test/mount/volume.js'];
  for (const name of ['bin', 'dist/src', ...served, 'package.json']) {
    fs.cpSync(path.join(ROOT, name), path.join(root, 'asof', name), { recursive: true });
  }
  for (const place of run('npm', ['ls', '--omit=dev', '--omit=optional', '--all', '--parseable'], {
    cwd: ROOT,
  }).split('\n')) {
    const name = path.relative(ROOT, place);
    if (!name.startsWith('node_modules') || name.includes('fuse-native')) continue;
    fs.cpSync(place, path.join(root, 'asof', name), { recursive: true });
  }
  makeImages(path.join(root, 'images'));
  fs.copyFileSync(path.join(ROOT, 'test', 'guest', 'uring.sh'), path.join(root, 'test.sh'));
  fs.writeFileSync(
    path.join(root, 'init'),
    `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /m
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox sh /test.sh
/bin/busybox poweroff -f
`,
    { mode: 0o755 },
  );
  const initrd = path.join(WORK, 'initrd');
  execFileSync('sh', ['-c', `find . | busybox cpio -o -H newc 2>/dev/null >'${initrd}'`], { cwd: root });
  return initrd;
}

const args = [
  ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '2048'],
  ...['-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
  ...['-kernel', kernel(), '-initrd', makeInitrd()],
  ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off fuse.enable_uring=1'],
];
const guest = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'inherit'] });
const timer = setTimeout(() => guest.kill('SIGKILL'), BOOT_SECONDS * 1000);
let output = '';
guest.stdout.setEncoding('utf8');
guest.stdout.on('data', text => {
  output += text;
  process.stdout.write(text);
});
guest.on('close', () => {
  clearTimeout(timer);
  const lines = output.split(/\r?\n/);
  const passed = lines.filter(line => line.startsWith('ok ')).length;
  const failed = lines.filter(line => line.startsWith('not ok ')).length;
  const whole = lines.includes(`1..${passed + failed}`);
  if (!whole) console.log('# the guest did not come to its end');
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = whole && failed === 0 && passed > 0 ? 0 : 1;
});
