/**
 * A mirror whose n-th call fails, for every n and two errors, throws in words; its target is then whole, or says that it is
 * not, and the next run ends well.
 */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { AsofError } from '../../src/errors.js';
import { scratch } from '../image/history-lab.js';
import { noise } from '../image/peer.js';
import { MIB, MirrorLab, poke, sha } from './mirror-lab.js';
import { NOTICE, run, stateOf } from './mirror-victim.js';

t.setTimeout(240_000);

for (const code of ['ENOSPC', 'EIO']) {
  t.test(`${code} at every call`, async t => {
    const lab = new MirrorLab(t, scratch(t));
    const bytes = noise(2, 2 * MIB + 512);
    const source = lab.file('source.img', bytes);
    const target = lab.path('target');
    await run(source, target, lab.state, () => {});
    for (let calls = 1; ; calls++) {
      const old = sha(readFileSync(target));
      poke(source, 30_000, noise(calls, 100));
      poke(source, MIB, noise(calls, 100));
      poke(source, bytes.length - 10, noise(calls, 10));
      let left = calls;
      let failure: unknown;
      await run(source, target, lab.state, call => {
        if (--left === 0) throw Object.assign(new Error(`${code}: ${call}`), { code, syscall: call });
      }).catch(error => {
        failure = error;
      });
      if (left > 0) {
        t.equal(failure, undefined, 'it needs no more calls');
        break;
      }
      t.ok(failure instanceof AsofError, `call ${calls}: ${String(failure)}`);
      t.match(String(failure), code);
      const now = stateOf(target, lab.state);
      t.ok(now === 'updating' || now === 'whole', `call ${calls}: ${now}`);
      const there = readFileSync(target);
      const noticed = there.toString('latin1', 0, NOTICE.length) === NOTICE;
      if (noticed) t.equal(now, 'updating');
      // Without the notice it is what it was or what it is to be, whatever the record says.
      else t.ok([old, sha(readFileSync(source))].includes(sha(there)), `call ${calls}: one moment, no mix`);
      await run(source, target, lab.state, () => {});
      t.equal(sha(readFileSync(target)), sha(readFileSync(source)), `call ${calls}: the next run`);
    }
  });
}
