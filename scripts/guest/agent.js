/**
 * The writer `qemu` with a real guest: asof serves a volume on this host, its live device is the disk of a guest, and
 * Debian's own agent freezes the guest's file systems: test/guest/agent.ts here, test/guest/agent.sh in the guest.
 */
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { ROOT } from '../build.js';
import { copyLibraries, unpacked } from './debian.js';
import { boot } from './machine.js';
import { copyBinary, makeExt4, makeSystem } from './system.js';

const PACKAGES = ['qemu-guest-agent', 'libglib2.0-0', 'libudev1', 'libnuma1', 'liburing2', 'libpcre2-8-0'];

/** It takes two and a half minutes on a quiet machine. */
const SECONDS = 1800;

export async function test() {
  const { test: run } = await import(path.join(ROOT, 'dist/test/guest/agent.js'));
  const system = makeSystem(root => {
    const packages = unpacked('qemu-guest-agent', PACKAGES);
    copyBinary(path.join(packages, 'usr', 'sbin', 'qemu-ga'), root, '/bin/qemu-ga');
    copyLibraries(packages, root);
    fs.chmodSync(path.join(root, 'test', 'agent-hook.sh'), 0o755);
  });
  // Not in build-guest: the path of a socket must be short.
  const folder = fs.mkdtempSync(path.join(tmpdir(), 'asof-guest-'));
  const origin = path.join(folder, 'origin');
  makeExt4(origin, '64M');
  /** A guest whose disk is that file; its ports are the sockets `agent` and `control` in the folder. */
  const start = (disk, line) => {
    const ports = { agent: 'org.qemu.guest_agent.0', control: 'asof.control' };
    const args = [
      ...['-blockdev', `driver=raw,node-name=data,file.driver=file,file.filename=${disk}`],
      ...['-device', 'virtio-blk-pci,drive=data,serial=asof-data'],
      ...['-device', 'virtio-serial-pci'],
      ...Object.entries(ports).flatMap(([id, name]) => [
        ...['-chardev', `socket,id=${id},path=${path.join(folder, id)},server=on,wait=off`],
        ...['-device', `virtserialport,chardev=${id},name=${name}`],
      ]),
    ];
    return boot({ system, test: 'agent', memory: 384, args, line, seconds: SECONDS });
  };
  return run({ folder, origin, start });
}
