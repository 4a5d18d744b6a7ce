/**
 * Memory reclaim: an ext4 on a loop device over a live device, in a guest that runs out of memory. What is dirty can only be
 * written back through the daemon, which must therefore never wait for memory itself: test/guest/reclaim.sh.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { bootForTap } from './machine.js';
import { makeExt4, makeSystem } from './system.js';

/** The guest gives up by itself before, and shows what hangs. */
const SECONDS = 900;

/**
 * What is no case is swap on that file system: it is not supported (docs/cli.md), because then the daemon's own pages, and
 * what the kernel needs to serve it, can only be had through the daemon.
 */
const CASES = [
  { title: 'origin and store on one disk', env: { origin: '/state/origin' }, memory: 256, uring: 0 },
  {
    title: 'store in memory, bounded',
    env: { origin: '/dev/vdc', store: 'memory', limit: '24M' },
    memory: 320,
    uring: 1,
  },
];

export async function test(argv) {
  const { values } = parseArgs({ args: argv, options: { case: { type: 'string' } } });
  const cases = values.case === undefined ? CASES : CASES.slice(Number(values.case) - 1, Number(values.case));
  const system = makeSystem();
  let well = true;
  for (const { title, env, memory, uring } of cases) {
    console.log(`# ${title}`);
    const state = path.join(system.folder, 'state');
    const origin = path.join(system.folder, 'origin');
    makeExt4(state, '320M');
    fs.writeFileSync(origin, '');
    fs.truncateSync(origin, 64 * 2 ** 20);
    const disks = { state, origin };
    const args = Object.entries(disks).flatMap(([name, file]) => [
      ...['-blockdev', `driver=raw,node-name=${name},file.driver=file,file.filename=${file}`],
      ...['-device', `virtio-blk-pci,drive=${name},serial=asof-${name}`],
    ]);
    const kernelArgs = [`fuse.enable_uring=${uring}`];
    const options = { system, test: 'reclaim', env, memory, kernelArgs, args, seconds: SECONDS };
    well = (await bootForTap(options)) && well;
  }
  return well;
}
