/**
 * A daemon that is stopped or killed in the middle of a backup that it runs by itself leaves nothing running and nothing lying
 * about, and makes up for it once.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Client } from '../../src/cli/client.js';
import { asof, eventually } from '../cli/asof.js';
import { convert } from '../image/peer.js';
import { attempt, missing } from '../peers.js';
import { backupLab, MiB } from './backup-schedule.js';
import { serve } from './configured.js';

t.setTimeout(180_000);

const skip = missing(['umount', 'qemu-img'], ['fuse']);

/** The process of the backup that the daemon `pid` runs. */
function backupOf(pid: number): number | undefined {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const parent = Number(
        readFileSync(`/proc/${name}/stat`, 'latin1')
          .replace(/^.*\) . /s, '')
          .split(' ')[0],
      );
      if (parent === pid && readFileSync(`/proc/${name}/cmdline`, 'latin1').includes('scheduled-backup')) {
        return Number(name);
      }
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined;
}

/** Gone, or a zombie that nobody has waited for. */
function isOver(pid: number): boolean {
  try {
    return /^.*\) Z /s.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return true;
  }
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  t.test(`${signal} in the middle of one`, { skip }, async t => {
    const { state, mount, history, bytes, config, configure, ask, told, listed, partial } = backupLab(
      t,
      24 * MiB,
    );
    const slow = '  s: {volumes: [a], every: 366d, backup: {to: history, compress: none, rate: 128K}}\n';
    configure(slow);
    const end = await serve(t, config);
    const client = new Client({ state });
    const { pid } = await client.ask<{ pid: number }>('GET', '/daemon');
    await eventually(() => partial().some(name => name.endsWith('.qcow2')), 'it writes');
    t.match(await told(), { state: 'running' });
    t.match(await asof('schedule', 'run', 's', '--state', state), { status: 2, stderr: /is running since/ });
    const child = backupOf(pid);
    t.ok(child);
    await end(signal);
    if (signal === 'SIGKILL') await attempt('umount', ['-l', mount]);
    else {
      t.ok(isOver(child!), 'its process has ended');
      t.same(partial(), [], 'nothing lies about');
    }
    configure(slow.replace(', rate: 128K', ''));
    const stop = await serve(t, config);
    await eventually(async () => (await told()).last?.outcome === 'done', 'it is made up for');
    // It may have been ending still when the next one began, which waits for it.
    await eventually(() => isOver(child!), 'its process has ended');
    t.same(partial(), [], 'nothing lies about');
    const { points, failures } = await listed();
    t.equal(points.length, 1);
    t.ok(convert(join(history, points[0]!.manifest.image.file)).equals(bytes.a));
    t.match(failures, [{ outcome: 'failed', volume: { name: 'a' } }]);
    t.same(await ask<unknown[]>('snapshot', 'list'), []);
    await stop();
  });
}
