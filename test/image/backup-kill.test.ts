/**
 * A backup that is killed at any of its steps leaves a point or none; the next one takes away what was left, and nothing
 * of anybody else, and succeeds.
 */
import { spawn } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { History } from '../../src/image/history.js';
import { Lab, readPoint, scratch, verifyAll } from './history-lab.js';
import { noise } from './peer.js';

t.setTimeout(300_000);

const VICTIM = new URL('backup-victim.js', import.meta.url).pathname;
/** Calls of a backup from one kill to the next; backup-fault.test.ts stops at each. ASOF_STRIDE=1 kills at each as well. */
const STRIDE = Number(process.env['ASOF_STRIDE'] ?? 2);

/** How the run ended: killed, or by itself. */
function victim(folder: string, calls: number): Promise<'killed' | 'ended'> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [VICTIM, folder, String(calls)], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    child.on('error', failed);
    child.on('close', (code, signal) => {
      if (signal === 'SIGKILL') done('killed');
      else if (code === 0) done('ended');
      else failed(new Error(`the victim ended with ${code ?? signal}`));
    });
  });
}

t.test('SIGKILL at every step', async t => {
  const lab = new Lab(scratch(t), noise(3, 6 * 65536 + 1000));
  await lab.backup();
  // Names like ours, and not ours.
  const strangers = ['.asof-notes', 'vol-2026-01-01T00-09-00Z-0badc0de.qcow2', 'other.tree', '.asof-1.qcow2'];
  for (const name of strangers) writeFileSync(join(lab.history, name), 'not ours');
  let kills = 0;
  let commits = 0;
  for (let calls = 1; ; calls += STRIDE) {
    const before = new History(lab.history);
    before.close();
    const how = await victim(lab.folder, calls);
    const after = new History(lab.history);
    t.same(after.troubles, [], `call ${calls}: every manifest is whole`);
    const more = after.points.length - before.points.length;
    after.close();
    if (how === 'ended') {
      t.equal(more, 1);
      break;
    }
    kills++;
    commits += more;
    t.ok(more === 0 || more === 1, `call ${calls}: a point or none`);
  }
  t.ok(kills > 10, `${kills} kills`);
  t.ok(commits > 0, 'the last calls come after the commit');
  await lab.backup();
  const history = new History(lab.history);
  t.teardown(() => history.close());
  for (const point of history.points) t.ok((await readPoint(history, point)).equals(lab.bytes), point.stem);
  for (const { faults, defects } of await verifyAll(lab.history, true)) t.same([faults, defects], [[], []]);
  const ours = history.points.flatMap(({ stem }) => ['json', 'qcow2', 'tree'].map(end => `${stem}.${end}`));
  t.same(
    readdirSync(lab.history).sort(),
    [...ours, ...strangers, '.asof-failures', '.asof-lock'].sort(),
    'nothing is left, nothing is lost',
  );
});
