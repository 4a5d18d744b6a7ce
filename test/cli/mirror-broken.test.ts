/**
 * A snapshot that breaks under a mirror: nothing that was read of it is believed. Before anything was written the target stays
 * what it was, later it is marked as being updated; the next run, of another snapshot, ends well.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { mirror } from '../../src/mirror.js';
import { noise } from '../image/peer.js';
import { missing } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { serve } from './mirror-daemon.js';
import { MIB, MirrorLab, poke, sha } from './mirror-lab.js';
import { OPTIONS, run, sourceOf, stateOf } from './mirror-victim.js';

t.setTimeout(240_000);

t.test('a store that is full', { skip: missing(['dd'], ['root', 'fuse']) }, async t => {
  const lab = new MirrorLab(t);
  const bytes = noise(1, 12 * MIB);
  const origin = lab.file('origin.img', bytes);
  const { mount } = await serve(t, lab);
  await asofJson('volume', 'add', 'vol', origin, '--state', lab.state, '--store-limit', '4M');
  const live = join(mount, 'volumes/vol/live');
  const target = lab.path('target.img');
  await lab.mirror('vol', target);
  // As soon as there is a snapshot, more is written than the store can hold.
  const piece = lab.file('piece', noise(2, 8 * MIB));
  const writes = `dd if=${piece} of=${live} bs=1M conv=notrunc,fsync status=none`;
  const moment = ['--after-snapshot', writes, '--shell', '--method', 'compared'];
  const ended = await asof('mirror', 'vol', target, ...moment, '--state', lab.state, '--json');
  t.not(ended.status, 0);
  t.match(ended.stderr, /(MIRROR_FAILED|DAMAGED|IO).*nothing of the target was written/);
  t.equal(sha(readFileSync(target)), sha(bytes), 'the mirror is what it was');
  t.equal((await lab.status(target)).state, 'whole');
  t.same(await asofJson('snapshot', 'list', '--state', lab.state), [], 'no snapshot is left');
  await lab.mirror('vol', target, '--guard', '100%');
  t.equal(sha(readFileSync(target)), sha(readFileSync(origin)));
});

t.test('at each time that it is asked', async t => {
  const lab = new MirrorLab(t);
  const source = lab.file('source.img', noise(1, 2 * MIB));
  const target = lab.path('target');
  await run(source, target, lab.state, () => {});
  for (const [time, state, text] of [
    [1, 'whole', /it broke; nothing of the target was written/],
    [2, 'updating', /it broke; .* is marked as being updated/],
  ] as const) {
    poke(source, MIB, noise(time, 100));
    let asked = 0;
    const from = sourceOf(source, { changed: () => (++asked === time ? 'it broke' : undefined) });
    await t.rejects(mirror(from, target, { ...OPTIONS, state: lab.state }), {
      code: 'MIRROR_FAILED',
      message: text,
    });
    from.point.close();
    t.equal(stateOf(target, lab.state), state);
  }
  await run(source, target, lab.state, () => {});
  t.equal(sha(readFileSync(target)), sha(readFileSync(source)));
});

t.test('a signal, and a second run meanwhile', async t => {
  const lab = new MirrorLab(t);
  const source = lab.file('source.img', noise(1, 2 * MIB));
  const target = lab.path('target');
  const stop = new AbortController();
  const from = sourceOf(source);
  const options = { ...OPTIONS, state: lab.state, signal: stop.signal };
  const step = (name: string) => {
    if (name === 'noticed') stop.abort();
  };
  await t.rejects(mirror(from, target, { ...options, step }), {
    code: 'MIRROR_FAILED',
    message: /the mirror was stopped; .* is marked as being updated/,
  });
  from.point.close();
  let second: Promise<unknown> | undefined;
  await run(source, target, lab.state, name => {
    if (name === 'noticed') second = run(source, target, lab.state, () => {}).catch(error => error);
  });
  t.match(await second, { code: 'TARGET_BUSY' });
  t.equal(sha(readFileSync(target)), sha(readFileSync(source)));
});
