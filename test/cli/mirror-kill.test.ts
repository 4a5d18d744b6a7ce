/**
 * A mirror that is killed at any of its steps: its target says that it is not whole, or it is whole; it is
 * never a mix that looks whole. The next run ends well, and the target equals the source.
 */
import { spawn } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { scratch } from '../image/history-lab.js';
import { noise } from '../image/peer.js';
import { MIB, MirrorLab, sha } from './mirror-lab.js';
import { NOTICE, run, stateOf } from './mirror-victim.js';

t.setTimeout(300_000);

const VICTIM = new URL('mirror-victim.js', import.meta.url).pathname;

/** Steps from one kill to the next; mirror-fault.test.ts stops at each. ASOF_STRIDE=1 kills at each as well. */
const STRIDE = Number(process.env['ASOF_STRIDE'] ?? 3);

/** How the run ended: killed, or by itself. */
function victim(...argv: readonly string[]): Promise<'killed' | 'ended'> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [VICTIM, ...argv], { stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', failed);
    child.on('close', (code, signal) => {
      if (signal === 'SIGKILL') done('killed');
      else if (code === 0) done('ended');
      else failed(new Error(`the victim ended with ${code ?? signal}`));
    });
  });
}

/** A source that differs at its beginning, in the middle, at its end, which lies within a cluster, and in zeros. */
function change(bytes: Buffer, round: number): void {
  noise(round, 20_000).copy(bytes, 30_000);
  noise(round + 1, 150_000).copy(bytes, MIB);
  noise(round + 2, 100).copy(bytes, bytes.length - 50);
  bytes.fill(0, 2 * MIB, 2 * MIB + 130_000);
  if (round % 2 === 0) noise(round, 130_000).copy(bytes, 2 * MIB);
}

for (const what of ['a new target', 'one that was whole'] as const) {
  t.test(`SIGKILL at every step of ${what}`, async t => {
    const lab = new MirrorLab(t, scratch(t));
    const bytes = noise(1, 3 * MIB + 512);
    const source = lab.file('source.img', bytes);
    let kills = 0;
    let noticed = 0;
    let wholes = 0;
    for (let calls = what === 'a new target' ? 1 : 2; ; calls += STRIDE) {
      const target = lab.path(what === 'a new target' ? `target-${calls}` : 'target');
      if (what !== 'a new target') await run(source, target, lab.state, () => {});
      const old = statSync(target, { throwIfNoEntry: false }) && sha(readFileSync(target));
      change(bytes, calls);
      writeFileSync(source, bytes);
      const how = await victim(source, target, lab.state, String(calls));
      if (how === 'killed') {
        kills++;
        const there = statSync(target, { throwIfNoEntry: false }) ? readFileSync(target) : Buffer.alloc(0);
        const state = stateOf(target, lab.state);
        if (there.toString('latin1', 0, NOTICE.length) === NOTICE) {
          noticed++;
          t.equal(state, 'updating', `step ${calls}`);
        } else if (there.length > 0 && there.some(byte => byte !== 0)) {
          // Without the notice it is what it was or what it is to be, whatever the record says.
          t.ok([old, sha(bytes)].includes(sha(there)), `step ${calls}: one moment, no mix`);
        }
        if (state === 'whole') wholes++;
      }
      await run(source, target, lab.state, () => {});
      t.equal(sha(readFileSync(target)), sha(bytes), `step ${calls}: the next run`);
      t.equal(stateOf(target, lab.state), 'whole');
      if (how === 'ended') break;
    }
    t.ok(kills > 5, `${kills} kills`);
    t.ok(noticed > 1, `${noticed} of them with the notice on the target`);
    if (what !== 'a new target') t.ok(wholes > 0, 'and some before anything was written');
  });
}
