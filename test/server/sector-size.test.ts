/**
 * A disk with sectors of 4096 bytes, as a device and as a volume of the daemon: the manifest says so, and so a restore onto a
 * larger disk finds the partition table and moves its second header, and one partition is found. Oracles: sfdisk, sgdisk.
 *
 * Both were recorded as of 512 bytes: the table was looked for in the wrong place, and the header stayed where it was.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { ASOF, asofJson, eventually } from '../cli/asof.js';
import { scratch } from '../cow/lab.js';
import { noise } from '../image/peer.js';
import { attempt, detachLoops, missing, run } from '../peers.js';

t.setTimeout(180_000);

const MIB = 2 ** 20;
const skip = missing(['losetup', 'sfdisk', 'sgdisk', 'umount'], ['root', 'fuse', 'loop']);

async function loop(t: Test, path: string): Promise<string> {
  t.teardown(() => detachLoops(path));
  const device = (await run('losetup', ['-f', '--show', '-b', '4096', path])).trim();
  t.equal((await run('blockdev', ['--getss', device])).trim(), '4096');
  return device;
}

async function serve(t: Test, state: string, mount: string): Promise<void> {
  const options = ['serve', '--state', state, '--mount', mount, '--log-level', 'error'];
  const child = spawn(ASOF, options, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise(done => child.on('close', done));
    child.kill('SIGTERM');
    await ended;
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', piece => {
    text += piece;
  });
  await eventually(() => text.endsWith('\n') || child.exitCode !== null, 'the daemon is ready');
}

t.test('4096', { skip }, async t => {
  const folder = scratch(t);
  const [state, mount] = [join(folder, 'state'), join(folder, 'mount')];
  mkdirSync(mount);
  t.teardown(() => attempt('umount', ['-l', mount]));
  const file = join(folder, 'disk.img');
  writeFileSync(file, Buffer.concat([noise(1, 8 * MIB), Buffer.alloc(16 * MIB)]));
  const disk = await loop(t, file);
  const table = 'label: gpt\nstart=256,size=1024\nsize=2048\n';
  await run('sfdisk', ['--quiet', '--wipe', 'always', disk], { input: table });
  const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
  const first = sha(readFileSync(disk).subarray(256 * 4096, (256 + 1024) * 4096));

  await serve(t, state, mount);
  const store = join(folder, 'store');
  await asofJson('volume', 'add', 'vol', disk, '--store', store, '--state', state);
  for (const [source, more] of [
    [disk, []],
    ['vol', ['--state', state]],
  ] as const) {
    const history = join(folder, `history-of-${more.length > 0 ? 'volume' : 'device'}`);
    const { disk: shape } = await asofJson<Manifest>('backup', source, '--to', history, ...more);
    t.equal(shape.sectorSize, 4096, source);

    const larger = join(folder, `${more.length}-larger`);
    writeFileSync(larger, '');
    truncateSync(larger, 40 * MIB);
    const { gptMoved } = await asofJson<{ gptMoved: boolean }>('restore', history, larger);
    t.ok(gptMoved, source);
    const target = await loop(t, larger);
    t.match((await attempt('sgdisk', ['--verify', target])).stdout.toString(), /No problems found/);
    const after = (await run('sgdisk', ['--print', target])).toString();
    t.match(after, /Sector size \(logical\/physical\): 4096\//);
    t.match(after, new RegExp(`last usable sector is ${(40 * MIB) / 4096 - 6}`));

    const one = join(folder, `${more.length}-part`);
    await asofJson('restore', history, one, '--partition', '1');
    t.equal(sha(readFileSync(one)), first, 'the first partition');
  }
});
