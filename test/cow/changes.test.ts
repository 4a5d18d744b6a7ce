/**
 * What changed is told piece by piece: a volume of 16 TiB of which scattered chunks changed, in bounded memory; and the
 * pieces together are one answer.
 */
import { once } from 'node:events';
import { join } from 'node:path';
import t from 'tap';
import { changesDocument } from '../../src/server/changes.js';
import { changesOf, emptyFile, openVolumes, scratch } from './lab.js';

t.setTimeout(120_000);

const TiB = 2 ** 40;
const CHUNK = 65536;
/** More than three of the engine's answers hold. */
const COUNT = 30_000;

t.test('every other chunk of a very large volume', async t => {
  const folder = scratch(t);
  const { volumes } = await openVolumes(t, join(folder, 'state'));
  const volume = await volumes.add({
    name: 'v',
    origin: emptyFile(join(folder, 'origin'), 16 * TiB - CHUNK + 512),
    durability: 'process',
  });
  const { native } = volume.opened().live;
  // Zeros, so that nothing takes space; half at the start, half at the end.
  const expected: number[] = [];
  const start = 16 * TiB - (COUNT + 1) * CHUNK;
  for (let i = 0; i < COUNT; i++) {
    const offset = (i < COUNT / 2 ? 0 : start) + 2 * (i % (COUNT / 2)) * CHUNK;
    await native.writeZeroes(offset, 512, true);
    expected.push(offset, CHUNK);
  }
  const last = 16 * TiB - CHUNK;
  await native.writeZeroes(last, 512, true);
  expected.push(last, 512);

  const { runs, exact } = await changesOf(volumes, 'v', { since: 'added' });
  t.ok(exact);
  t.strictSame(runs, expected);

  let largest = 0;
  for await (const piece of volumes.changes('v', { since: 'added' }).pieces)
    largest = Math.max(largest, piece.byteLength);
  t.ok(largest <= 8192 * 16, `a piece has ${largest} bytes`);

  t.test('runs that touch become one, wherever the engine stopped', async t => {
    for (let i = 0; i < COUNT / 2; i++) await native.writeZeroes((2 * i + 1) * CHUNK, 512, true);
    const whole = await changesOf(volumes, 'v', { since: 'added' });
    t.strictSame(whole.runs.slice(0, 4), [0, COUNT * CHUNK, ...expected.slice(COUNT, COUNT + 2)]);
  });

  t.test('nobody reads: nothing more is asked', async t => {
    const { since, pieces } = volumes.changes('v', { since: 'added' });
    let asked = 0;
    const counted = (async function* () {
      for (;;) {
        const { value, done } = await pieces.next();
        if (done) return value;
        asked++;
        yield value;
      }
    })();
    const document = changesDocument({ volume: 'v', since, pieces: counted });
    await once(document, 'readable');
    for (let i = 0; i < 100; i++) await new Promise(done => setImmediate(done));
    t.ok(asked <= 2, `${asked} pieces were asked for`);
    let text = '';
    for await (const piece of document) text += piece;
    const { extents, bytes, exact } = JSON.parse(text);
    t.equal(extents.length, COUNT / 2 + 2);
    t.match({ bytes, exact }, { bytes: COUNT * CHUNK + (COUNT / 2) * CHUNK + 512, exact: true });
  });
});
