/**
 * The provider `lvm` on real logical volumes, thick and thin: device-mapper is what this host may not have. lvm2 is
 * Debian's, of this host's release, since its libraries are; fetched once, never installed: test/guest/lvm.sh.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ROOT } from '../build.js';
import { copyLibraries, unpacked } from './debian.js';
import { copyModule } from './kernel.js';
import { bootForTap } from './machine.js';
import { copyBinary, makeExt4, makeSystem } from './system.js';

const PACKAGES = [
  'lvm2',
  'thin-provisioning-tools',
  'libdevmapper1.02.1',
  'libdevmapper-event1.02.1',
  'libaio1',
];

/** In an order in which each finds those that it needs. */
const MODULES = ['dm-mod', 'dm-bufio', 'dm-snapshot', 'dm-bio-prison', 'dm-persistent-data', 'dm-thin-pool'];

/** What the test is made of, beside test/guest. */
const FILES = [
  'dist/test/cow/lab.js',
  'dist/test/cow/provider-conformance.js',
  'dist/test/peers.js',
  'scripts/packages.js',
];

/** There is no udev in the guest: lvm2 makes its devices itself. */
const CONFIGURATION = `activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" }
global { use_lvmpolld=0 }
backup { backup=0 archive=0 }
`;

/** A guest for each. */
const PARTS = ['thick', 'thin', 'full'];

/** Each takes two minutes on a quiet machine. */
const SECONDS = 3600;

function copyLvm(root) {
  const packages = unpacked('lvm2', PACKAGES);
  copyBinary(path.join(packages, 'sbin', 'lvm'), root, '/sbin/lvm');
  for (const name of ['lvs', 'lvcreate', 'lvremove', 'lvchange', 'pvcreate', 'vgcreate', 'vgchange']) {
    fs.symlinkSync('lvm', path.join(root, 'sbin', name));
  }
  copyBinary(path.join(packages, 'usr', 'sbin', 'pdata_tools'), root, '/usr/sbin/pdata_tools');
  for (const name of ['thin_check', 'thin_dump', 'thin_repair']) {
    fs.symlinkSync('pdata_tools', path.join(root, 'usr', 'sbin', name));
  }
  copyLibraries(packages, root);
  fs.mkdirSync(path.join(root, 'etc', 'lvm'), { recursive: true });
  fs.writeFileSync(path.join(root, 'etc', 'lvm', 'lvm.conf'), CONFIGURATION);
}

export async function test([part]) {
  if (part !== undefined && !PARTS.includes(part)) {
    console.error(`there is no part ${part}: ${PARTS.join(', ')}`);
    return false;
  }
  const system = makeSystem(root => {
    copyLvm(root);
    for (const name of MODULES) copyModule(name, path.join(root, 'lib', `${name}.ko`));
    for (const name of FILES) {
      const place = path.join(root, 'asof', name);
      fs.mkdirSync(path.dirname(place), { recursive: true });
      fs.copyFileSync(path.join(ROOT, name), place);
    }
  });
  let well = true;
  for (const each of part === undefined ? PARTS : [part]) {
    console.log(`# ${each}`);
    const state = path.join(system.folder, 'state');
    const disk = path.join(system.folder, 'disk');
    makeExt4(state, '256M');
    fs.rmSync(disk, { force: true });
    fs.writeFileSync(disk, '');
    fs.truncateSync(disk, 512 * 2 ** 20);
    const args = Object.entries({ state, disk }).flatMap(([name, file]) => [
      ...['-blockdev', `driver=raw,node-name=${name},file.driver=file,file.filename=${file}`],
      ...['-device', `virtio-blk-pci,drive=${name},serial=asof-${name}`],
    ]);
    const env = { modules: MODULES.join(','), part: each };
    well = (await bootForTap({ system, test: 'lvm', env, memory: 768, args, seconds: SECONDS })) && well;
  }
  return well;
}
