/**
 * The unit that is shipped, and the writer `systemd`, under the real systemd: it is process 1 of a guest, and Debian's, of this
 * host's release. test/guest/systemd.sh is a unit there.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ROOT } from '../build.js';
import { copyLibraries, unpacked } from './debian.js';
import { bootForTap } from './machine.js';
import { BEGUN, copyBinary, makeExt4, makeSystem } from './system.js';

/** The other libraries that it needs are on every Debian. */
const PACKAGES = ['systemd', 'libsystemd-shared', 'libapparmor1', 'libip4tc2', 'libkmod2', 'libseccomp2'];
/** A unit is frozen over the bus alone. */
const BUS = ['dbus', 'dbus-daemon', 'dbus-system-bus-common', 'libdbus-1-3', 'libexpat1', 'libsystemd0'];

/** What a service stands on. Nothing of it starts anything, since the folders *.wants are left behind. */
const TARGETS = [
  'basic',
  'local-fs',
  'multi-user',
  'paths',
  'shutdown',
  'slices',
  'sockets',
  'sysinit',
  'timers',
];

const BUS_CONFIGURATION = `<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`;

/** It takes two minutes on a quiet machine. */
const SECONDS = 1800;

const INIT = `#!/bin/busybox sh
echo '${BEGUN}'
export PATH=/bin:/usr/bin HOME=/root TERM=dumb
for each in tmp run root m; do mount -t tmpfs -o size=64m $each /$each; done
mount -t ext4 /dev/vdb /var
ip link set lo up
insmod /lib/loop.ko
exec /lib/systemd/systemd
`;

const TEST_UNIT = `[Unit]
Description=the test
Requires=dbus.socket
After=dbus.socket
[Service]
Type=exec
Environment=PATH=/bin:/usr/bin:/usr/local/bin HOME=/root
ExecStart=/bin/sh /test/systemd.sh
StandardOutput=tty
StandardError=tty
`;

/** Writes lines without end; says so when it was told to stop, and then has written all that it had. */
const WRITER_UNIT = `[Unit]
Description=writes to a live device
[Service]
Type=exec
ExecStartPre=/bin/sh -c '[ ! -e /tmp/no-start ]'
ExecStart=/bin/sh /test/systemd-writer.sh
StandardOutput=tty
StandardError=tty
`;

function copyBus(root, units) {
  const packages = unpacked('dbus', BUS);
  copyBinary(path.join(packages, 'usr', 'bin', 'dbus-daemon'), root, '/usr/bin/dbus-daemon');
  copyLibraries(packages, root);
  for (const name of ['dbus.service', 'dbus.socket']) {
    fs.copyFileSync(path.join(packages, 'lib', 'systemd', 'system', name), path.join(units, name));
  }
  const place = path.join(root, 'usr', 'share', 'dbus-1', 'system.conf');
  fs.mkdirSync(path.dirname(place), { recursive: true });
  fs.writeFileSync(place, BUS_CONFIGURATION);
}

function copySystemd(root) {
  const packages = unpacked('systemd', PACKAGES);
  copyBinary(path.join(packages, 'lib', 'systemd', 'systemd'), root, '/lib/systemd/systemd');
  copyBinary(path.join(packages, 'bin', 'systemctl'), root, '/usr/bin/systemctl');
  copyLibraries(packages, root);
  const own = path.join('usr', 'lib', 'x86_64-linux-gnu', 'systemd');
  for (const from of [own, path.join('lib', 'x86_64-linux-gnu', 'systemd')]) {
    if (!fs.existsSync(path.join(packages, from))) continue;
    for (const each of [own, path.join('lib', 'x86_64-linux-gnu', 'systemd')]) {
      fs.cpSync(path.join(packages, from), path.join(root, each), { recursive: true });
    }
  }
  const units = path.join(root, 'etc', 'systemd', 'system');
  fs.mkdirSync(path.join(units, 'multi-user.target.wants'), { recursive: true });
  copyBus(root, units);
  for (const name of TARGETS) {
    fs.copyFileSync(
      path.join(packages, 'lib', 'systemd', 'system', `${name}.target`),
      path.join(units, `${name}.target`),
    );
  }
  fs.symlinkSync('multi-user.target', path.join(units, 'default.target'));
  fs.copyFileSync(path.join(ROOT, 'systemd', 'asof.service'), path.join(units, 'asof.service'));
  fs.writeFileSync(path.join(units, 'asof-test.service'), TEST_UNIT);
  fs.writeFileSync(path.join(units, 'writer.service'), WRITER_UNIT);
  fs.symlinkSync('../asof-test.service', path.join(units, 'multi-user.target.wants', 'asof-test.service'));
  // There is no journal: what a service says is said on the console.
  fs.writeFileSync(
    path.join(root, 'etc', 'systemd', 'system.conf'),
    '[Manager]\nDefaultStandardOutput=tty\nDefaultStandardError=tty\nLogTarget=console\nDefaultEnvironment=ASOF_LOG=warn\nLogLevel=warning\nShowStatus=no\n',
  );
  fs.writeFileSync(path.join(root, 'etc', 'machine-id'), `${'0'.repeat(31)}1\n`);
  fs.writeFileSync(path.join(root, 'etc', 'passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  fs.writeFileSync(path.join(root, 'etc', 'group'), 'root:x:0:\n');
}

export function test() {
  const system = makeSystem(root => {
    copySystemd(root);
    fs.mkdirSync(path.join(root, 'var'), { recursive: true });
    fs.mkdirSync(path.join(root, 'usr', 'local', 'bin'), { recursive: true });
    // As the unit and the program itself name it.
    fs.symlinkSync('/bin/busybox', path.join(root, 'usr', 'bin', 'env'));
    fs.symlinkSync('/asof/bin/asof', path.join(root, 'usr', 'local', 'bin', 'asof'));
    for (const name of ['lvs', 'lvcreate']) {
      const place = path.join(root, 'usr', 'local', 'sbin', name);
      fs.mkdirSync(path.dirname(place), { recursive: true });
      fs.copyFileSync(path.join(ROOT, 'test', 'guest', 'scripted-lvm.sh'), place);
      fs.chmodSync(place, 0o755);
    }
    fs.writeFileSync(path.join(root, 'init'), INIT, { mode: 0o755 });
  });
  const state = path.join(system.folder, 'state');
  const origin = path.join(system.folder, 'origin');
  makeExt4(state, '128M');
  makeExt4(origin, '32M');
  const args = Object.entries({ state, origin }).flatMap(([name, file]) => [
    ...['-blockdev', `driver=raw,node-name=${name},file.driver=file,file.filename=${file}`],
    ...['-device', `virtio-blk-pci,drive=${name},serial=asof-${name}`],
  ]);
  return bootForTap({ system, test: 'systemd', memory: 768, args, seconds: SECONDS });
}
