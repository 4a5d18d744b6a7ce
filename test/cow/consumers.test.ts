/**
 * Consumers: each has a moment, and learns of everything that was written since, over deletions, restarts and kills; where
 * that cannot be told, it is told so.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readState, writeState } from '../../src/cow/state-file.js';
import type { Volume } from '../../src/cow/volume.js';
import { changesOf, codeOf, MiB, openVolumes, scratch } from './lab.js';

t.setTimeout(60_000);

const CHUNK = 65536;
const SIZE = 4 * MiB;

async function setUp(t: Test, more: object = {}) {
  const folder = scratch(t);
  const state = join(folder, 'state');
  const origin = join(folder, 'origin');
  writeFileSync(origin, randomBytes(SIZE));
  const { volumes, close } = await openVolumes(t, state);
  const volume = await volumes.add({ name: 'v', origin, ...more });
  return { folder, state, origin, volumes, close, volume };
}

const write = (volume: Volume, chunk: number) =>
  volume.opened().live.native.write(chunk * CHUNK + 5, randomBytes(9));
const chunksOf = (runs: readonly number[]) => {
  const chunks: number[] = [];
  for (let i = 0; i < runs.length; i += 2)
    for (let at = runs[i]!; at < runs[i]! + runs[i + 1]!; at += CHUNK) chunks.push(at / CHUNK);
  return chunks;
};

/** As a killed daemon leaves state.json: what it said while the volume was open. */
async function kill(close: () => Promise<void>, volume: Volume, state: object = {}): Promise<void> {
  const path = join(volume.folder, 'state.json');
  const tracker = join(volume.folder, 'tracker');
  const open = [readFileSync(path), readFileSync(tracker)] as const;
  await close();
  writeFileSync(path, open[0]);
  writeFileSync(tracker, open[1]);
  const read = readState<object>(path, 'volume-state');
  if (!('body' in read)) throw new Error(read.trouble);
  writeState(path, 'volume-state', { ...read.body, ...state });
}

t.test('each consumer learns what was written since its own moment', async t => {
  const { state, volumes, close, volume } = await setUp(t);
  // The model: every write, and at which of them each consumer was.
  const writes: number[] = [];
  const has = new Map<string, number>();
  const check = async (all: typeof volumes, message: string) => {
    for (const [consumer, from] of has) {
      const { runs, exact, method } = await changesOf(all, 'v', { consumer });
      const expected = [...new Set(writes.slice(from))].sort((a, b) => a - b);
      t.same(chunksOf(runs), expected, `${message}: ${consumer}`);
      t.match({ exact, method }, { exact: true, method: 'tracked' });
    }
  };
  for (let round = 0; round < 12; round++) {
    const consumer = `consumer-${round % 3}`;
    const [snapshot] = await volumes.snapshot(['v']);
    t.equal((await volumes.mark('v', consumer, snapshot!.id.slice(0, 8))).snapshot, snapshot!.id);
    has.set(consumer, writes.length);
    for (let i = 0; i < 3; i++) {
      const chunk = (round * 7 + i * 5) % (SIZE / CHUNK);
      await write(volume, chunk);
      writes.push(chunk);
    }
    if (round % 2 === 0) await volumes.deleteSnapshot(snapshot!.id);
    await check(volumes, `round ${round}`);
  }
  const told = volume.consumers();
  await close();
  const again = await openVolumes(t, state);
  t.same(again.volumes.get('v').consumers(), told);
  await check(again.volumes, 'after a restart');
  t.equal((await again.volumes.unmark('v', 'consumer-1')).consumer, 'consumer-1');
  t.equal(await codeOf(() => again.volumes.unmark('v', 'consumer-1')), 'CONSUMER_UNKNOWN');
  t.equal(await codeOf(() => again.volumes.changes('v', { consumer: 'consumer-1' })), 'CONSUMER_UNKNOWN');
  has.delete('consumer-1');
  await check(again.volumes, 'without the other');
  t.equal(await codeOf(() => again.volumes.mark('v', '../x', told[0]!.snapshot)), 'USAGE');
  t.equal(await codeOf(() => again.volumes.mark('v', 'x', 'ffffffff')), 'SNAPSHOT_UNKNOWN');
});

t.test('a failed image loses no change: until it is marked, the moment stays', async t => {
  const { volumes, volume } = await setUp(t);
  const [base] = await volumes.snapshot(['v']);
  await volumes.mark('v', 'backup', base!.id);
  await volumes.deleteSnapshot(base!.id);
  await write(volume, 1);
  const [failed] = await volumes.snapshot(['v']);
  await write(volume, 2);
  const until = async (id: string) =>
    chunksOf((await changesOf(volumes, 'v', { consumer: 'backup', until: id })).runs);
  t.same(await until(failed!.id), [1], 'what was written later is not of that image');
  await volumes.deleteSnapshot(failed!.id);
  const [next] = await volumes.snapshot(['v']);
  await write(volume, 1);
  await write(volume, 3);
  t.same(await until(next!.id), [1, 2]);
  await volumes.mark('v', 'backup', next!.id);
  t.same(chunksOf((await changesOf(volumes, 'v', { consumer: 'backup' })).runs), [1, 3]);
  t.equal(await codeOf(() => until(failed!.id)), 'SNAPSHOT_UNKNOWN');
  await volumes.deleteSnapshot(next!.id);
  const [older] = await volumes.snapshot(['v']);
  const [newer] = await volumes.snapshot(['v']);
  await volumes.mark('v', 'backup', newer!.id);
  t.equal(await codeOf(() => until(older!.id)), 'USAGE', 'not backwards');
});

t.test('a kill: nothing is missed, and a region may count whole', async t => {
  const { state, volumes, close, volume } = await setUp(t);
  const [base] = await volumes.snapshot(['v']);
  await volumes.mark('v', 'backup', base!.id);
  await volumes.deleteSnapshot(base!.id);
  await write(volume, 9);
  await kill(close, volume);
  const again = await openVolumes(t, state);
  const { runs, exact } = await changesOf(again.volumes, 'v', { consumer: 'backup' });
  t.ok(chunksOf(runs).includes(9));
  t.notOk(exact);
  t.match(again.volumes.get('v').consumers(), [{ consumer: 'backup', state: 'tracked' }]);
});

const losses: Record<string, (folder: string, origin: string) => void> = {
  'a foreign write': (_, origin) => writeFileSync(origin, 'x', { flag: 'r+' }),
  'the tracker gone': folder => rmSync(join(folder, 'tracker')),
  'the tracker emptied': folder => truncateSync(join(folder, 'tracker'), 0),
};
for (const [name, lose] of Object.entries(losses)) {
  // With the store in memory and the tracker gone, nothing is left that has counted: numbers of before mean nothing.
  for (const store of ['memory', undefined]) {
    t.test(
      `tracking lost by ${name}, store ${store ?? 'on disk'}: unknown, with the reason, until the next mark`,
      async t => {
        const { state, origin, volumes, close, volume } = await setUp(t, store ? { store } : {});
        for (let i = 0; i < 5; i++) await volumes.snapshot(['v']);
        const gone = volumes.snapshots().at(-1)!;
        await volumes.mark('v', 'backup', gone.id);
        await volumes.deleteSnapshot(gone.id);
        await write(volume, 3);
        await close();
        lose(volume.folder, origin);
        for (const start of ['first', 'second']) {
          const { volumes: now, close: end } = await openVolumes(t, state);
          for (const query of [{ consumer: 'backup' }, { since: gone.id }, { since: 'added' }]) {
            const { runs, exact, method, why } = await changesOf(now, 'v', query);
            t.same(runs, [0, SIZE], `${start} start: ${JSON.stringify(query)}`);
            t.match({ exact, method }, { exact: false, method: 'none' });
            t.not(why, '');
          }
          const [marker] = now.get('v').consumers();
          t.equal(marker!.state, 'unknown');
          t.not(marker!.why, '');
          await end();
        }
        const { volumes: now } = await openVolumes(t, state);
        const [fresh] = await now.snapshot(['v']);
        await now.mark('v', 'backup', fresh!.id);
        await write(now.get('v'), 7);
        const { runs, exact } = await changesOf(now, 'v', { consumer: 'backup' });
        t.same([chunksOf(runs), exact], [[7], true]);
        t.match(now.get('v').consumers(), [{ state: 'tracked', why: '' }]);
      },
    );
  }
}

t.test(
  'a power cut, of which `process` does not protect, makes tracking unknown; `power` outlasts it',
  async t => {
    for (const durability of ['process', 'power'] as const) {
      const { state, origin, volumes, close, volume } = await setUp(t, { durability });
      const [base] = await volumes.snapshot(['v']);
      await volumes.mark('v', 'backup', base!.id);
      await write(volume, 9);
      await kill(close, volume, { bootId: '00000000-0000-4000-8000-000000000000' });
      utimesSync(origin, 1, 1); // before the machine started
      const again = await openVolumes(t, state);
      const { runs, method } = await changesOf(again.volumes, 'v', { consumer: 'backup' });
      t.ok(chunksOf(runs).includes(9));
      t.equal(method, durability === 'process' ? 'none' : 'tracked', durability);
    }
  },
);
