/**
 * Tests what only another kernel can show, in a guest that QEMU emulates:
 *
 *   npm run test:guest [-- NAME [OPTIONS]]
 *
 *   uring       FUSE over io_uring, which this host's administrator may have switched off
 *   power-cut   the guest is killed, and its disks lose what was not flushed     [--cuts N] [--seed N] [--verbose]
 *   lvm         snapshots by lvm2, thick and thin, which need device-mapper     [thick|thin|full]
 *   agent       the writer qemu: the agent of a guest whose disk is a live device
 *   systemd     the shipped unit and the writer systemd, under a real systemd
 *   reclaim     the guest runs out of memory under a file system on a live device     [--case N]
 *
 * Without a name all of them, one after the other. Needs a Debian host with qemu-system-x86, qemu-utils, busybox-static,
 * e2fsprogs and xz-utils, and about 1 GB in build-guest/; takes what build/ and dist/ hold (npm run build,
 * npm run build:native). Emulation is slow: a guest takes half a minute to a minute, and there are 41 of them.
 */
const TESTS = ['uring', 'power-cut', 'reclaim', 'lvm', 'agent', 'systemd'];

const [named, ...options] = process.argv.slice(2);
if (named !== undefined && !TESTS.includes(named)) {
  console.error(`there is no test ${named}: ${TESTS.join(', ')}`);
  process.exit(2);
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1)); // guests and folders go
let well = true;
for (const name of named === undefined ? TESTS : [named]) {
  console.log(`# ${name}`);
  const start = Date.now();
  const { test } = await import(`./guest/${name}.js`);
  well = (await test(options)) && well;
  console.log(`# ${name}: ${Math.round((Date.now() - start) / 1000)} s`);
}
process.exitCode = well ? 0 : 1;
