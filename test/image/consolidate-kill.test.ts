/**
 * A consolidation that ends at any of its calls: by an error, with every later call failing as well (that is what a kill
 * leaves), or by SIGKILL. Every point that is kept reads as before at once, and the next run does what was left.
 */
import { spawn } from 'node:child_process';
import { cpSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { History } from '../../src/image/history.js';
import { missing } from '../peers.js';
import { watchCalls } from './backup-victim.js';
import { type Contents, drop, holdsAll, newLab, remember, scribble } from './consolidate-lab.js';
import { random, scratch, verifyAll } from './history-lab.js';

t.setTimeout(300_000);

const VICTIM = new URL('consolidate-victim.js', import.meta.url).pathname;
const skip = missing(['qemu-img']);
/** Calls from one SIGKILL to the next. ASOF_STRIDE=1 kills at each. */
const STRIDE = Number(process.env['ASOF_STRIDE'] ?? 9);

/** Full, two to go into the third, the last stands on it; one more that nothing stands on. */
async function prepared(folder: string) {
  const lab = newLab(folder, 5);
  const contents: Contents = new Map();
  const next = random(5);
  const ids: string[] = [];
  for (let i = 0; i < 4; i++) {
    ids.push(await remember(lab, contents, { level: i % 2 }));
    scribble(lab, next, 2);
  }
  ids.push(await remember(lab, contents, { base: ids[2]! }));
  return { lab, contents, going: [ids[0]!, ids[1]!, ids[4]!], kept: [ids[2]!, ids[3]!] };
}

const ids = (path: string) => {
  const history = new History(path);
  history.close();
  return history.points.map(({ manifest }) => manifest.id);
};

async function whole(t: import('tap').Test, path: string, kept: readonly string[], contents: Contents) {
  t.same([...ids(path)].sort(), [...kept].sort());
  await holdsAll(t, path, contents, kept, 'at the end');
  for (const { faults, defects } of await verifyAll(path, true)) t.same([faults, defects], [[], []]);
  t.equal(readdirSync(path).length, kept.length * 3 + 1, 'nothing is left behind');
}

for (const once of [true, false]) {
  t.test(once ? 'an error at every call' : 'the end at every call', { skip }, async t => {
    const { lab, contents, going, kept } = await prepared(scratch(t));
    const path = join(lab.folder, 'copy');
    let struck = true;
    for (let call = 1; struck; call++) {
      rmSync(path, { recursive: true, force: true });
      cpSync(lab.history, path, { recursive: true });
      const before = ids(path);
      struck = false;
      let left = call;
      const restore = watchCalls(() => {
        left--;
        if (left > 0 || (once && struck)) return;
        struck = true;
        throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
      });
      let failure: unknown;
      try {
        await drop(path, going);
      } catch (error) {
        failure = error;
      } finally {
        restore();
      }
      if (struck && once && failure) {
        t.match((failure as { code: string }).code, /^(CONSOLIDATE_FAILED|IO)$/, `call ${call}`);
        const points = ids(path);
        t.ok(points.length <= before.length);
      }
      // We read every state, QEMU some: it is slow.
      await holdsAll(t, path, contents, call % (once ? 8 : 3) === 0 ? kept : [], `call ${call}`);
      if (!struck || call % 6 === 0) {
        await drop(path, going);
        await whole(t, path, kept, contents);
      }
    }
  });
}

t.test('SIGKILL', { skip }, async t => {
  const { lab, contents, going, kept } = await prepared(scratch(t));
  let kills = 0;
  for (let calls = 1; ; calls += STRIDE) {
    const how = await victim(lab.history, calls, going);
    await holdsAll(t, lab.history, contents, kept, `call ${calls}`);
    if (how === 'ended') break;
    kills++;
  }
  t.ok(kills > 2, `${kills} kills`);
  await whole(t, lab.history, kept, contents);
});

function victim(path: string, calls: number, going: readonly string[]): Promise<'killed' | 'ended'> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [VICTIM, path, String(calls), ...going], {
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
