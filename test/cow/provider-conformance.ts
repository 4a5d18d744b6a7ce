/**
 * What every provider of snapshots promises, whatever it is made of. The volume's origin is a file; the model is a byte
 * array.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { SnapshotProvider } from '../../src/cow/provider.js';
import type { MomentRequest } from '../../src/cow/quiesce.js';
import type { Volume } from '../../src/cow/volume.js';
import { changesOf, codeOf, MiB, openVolumes } from './lab.js';

const SIZE = 2 * MiB;
const CHUNK = 65536;

/** Where the provider works: makes an origin of these bytes, at that path or for it, and says where it is. */
export type MakeOrigin = (path: string, bytes: Buffer) => Promise<string> | string;

function makeFile(path: string, bytes: Buffer): string {
  writeFileSync(path, bytes);
  return path;
}

/** `folder`: on a file system on which the provider works, where its origins are files there. */
export function conformance(
  t: Test,
  provider: SnapshotProvider,
  folder: string,
  makeOrigin: MakeOrigin = makeFile,
  request: MomentRequest = {},
): void {
  let count = 0;
  const setUp = async (t: Test) => {
    const place = join(folder, `${provider.name}-${++count}`);
    const { volumes, close } = await openVolumes(t, place);
    const bytes = randomBytes(SIZE);
    const origin = await makeOrigin(`${place}/origin`, bytes);
    const volume = await volumes.add({ name: 'volume', origin, durability: 'process' });
    const take = async () => (await volumes.snapshot(['volume'], provider.name, request))[0]!;
    return { volumes, close, origin, bytes, volume, take, place };
  };
  const reads = (volume: Volume, id: string) => readAll(volume.disk(id).native, SIZE);
  const write = async (volume: Volume, model: Buffer, offset: number, bytes: Buffer) => {
    await volume.opened().live.native.write(offset, bytes);
    bytes.copy(model, offset);
  };

  t.test('a snapshot is the moment at which it was taken, whatever is written later', async t => {
    const { volume, bytes, take, origin } = await setUp(t);
    const moments: { id: string; model: Buffer }[] = [];
    for (let round = 0; round < 4; round++) {
      const { id, state, consistency, time } = await take();
      t.match({ state, consistency }, { state: 'live', consistency: 'crash' });
      t.ok(Math.abs(time - Date.now()) < 3_600_000);
      moments.push({ id, model: Buffer.from(bytes) });
      await write(volume, bytes, round * CHUNK + 1000, randomBytes(70_000));
      await write(volume, bytes, SIZE - 512, randomBytes(512));
      await volume.opened().live.native.writeZeroes(10 * CHUNK, CHUNK + 512, round % 2 === 0);
      bytes.fill(0, 10 * CHUNK, 11 * CHUNK + 512);
    }
    for (const { id, model } of moments) t.ok((await reads(volume, id)).equals(model), id);
    t.ok(readFileSync(origin).equals(bytes), 'the origin has what was written');
  });

  t.test('a snapshot in the middle is deleted; its neighbours stay right', async t => {
    const { volumes, volume, bytes, take } = await setUp(t);
    const moments: { id: string; model: Buffer }[] = [];
    for (let round = 0; round < 3; round++) {
      moments.push({ id: (await take()).id, model: Buffer.from(bytes) });
      await write(volume, bytes, round * CHUNK, randomBytes(2 * CHUNK));
    }
    const [first, middle, last] = moments as [(typeof moments)[0], (typeof moments)[0], (typeof moments)[0]];
    await volumes.deleteSnapshot(middle.id);
    t.same(
      volumes.snapshots().map(({ id }) => id),
      [first.id, last.id],
    );
    t.equal(await codeOf(() => volume.disk(middle.id)), 'SNAPSHOT_UNKNOWN');
    for (const { id, model } of [first, last]) t.ok((await reads(volume, id)).equals(model), id);
    t.equal(await codeOf(() => volumes.deleteSnapshot(middle.id)), 'SNAPSHOT_UNKNOWN');
  });

  t.test('persistent: a stop and a start bring it back as it was', async t => {
    t.ok(provider.can.persistent, 'every provider that there is claims to be');
    const { volume, bytes, take, close, place } = await setUp(t);
    const before = [await take(), await take()];
    const model = Buffer.from(bytes);
    await write(volume, bytes, 3 * CHUNK, randomBytes(CHUNK));
    await close();
    const again = await openVolumes(t, place);
    t.same(again.volumes.snapshots(), before);
    const opened = again.volumes.get('volume');
    for (const { id } of before) t.ok((await reads(opened, id)).equals(model));
    await write(opened, bytes, 4 * CHUNK, randomBytes(CHUNK));
    for (const { id } of before)
      t.ok((await reads(opened, id)).equals(model), 'and later writes do not show');
    await again.close();
  });

  t.test('independent or not: a foreign write ends it, or does not touch it', async t => {
    const { bytes, take, close, place, origin } = await setUp(t);
    const { id } = await take();
    const model = Buffer.from(bytes);
    await close();
    const fd = openSync(origin, 'r+');
    writeFileSync(fd, 'somebody else');
    closeSync(fd);
    const again = await openVolumes(t, place);
    const opened = again.volumes.get('volume');
    const [snapshot] = again.volumes.snapshots();
    if (provider.can.independent) {
      t.equal(snapshot!.state, 'live');
      t.ok((await reads(opened, id)).equals(model));
    } else {
      t.equal(snapshot!.state, 'unknown');
      t.match(snapshot!.why, /modification time/);
      t.not(await codeOf(() => reads(opened, id)), '', 'no byte of it is given');
    }
    t.equal(opened.tracking.state, 'unknown');
    await again.close();
  });

  t.test('tracked or not: changes since it never hold less than what changed', async t => {
    const { volumes, volume, bytes, take } = await setUp(t);
    await write(volume, bytes, 0, randomBytes(512));
    const { id } = await take();
    await write(volume, bytes, 5 * CHUNK + 7, randomBytes(10));
    await write(volume, bytes, 0, randomBytes(512));
    const { runs, exact, why } = await changesOf(volumes, 'volume', { since: id });
    if (provider.can.tracked) t.same([...runs], [0, CHUNK, 5 * CHUNK, CHUNK]);
    const covered = (at: number) =>
      runs.some((start, i) => i % 2 === 0 && at >= start && at < start + runs[i + 1]!);
    t.ok(covered(0) && covered(5 * CHUNK + 7));
    t.equal(exact, provider.can.tracked);
    if (!exact) t.match(why, provider.name);
    await volumes.deleteSnapshot(id);
    t.same(
      [...(await changesOf(volumes, 'volume', { since: id })).runs],
      [...runs],
      'a deleted one is answered for as well',
    );
  });

  t.test('groups: one moment of several volumes, or a refusal', async t => {
    const { volumes, volume, bytes, place } = await setUp(t);
    const origin = await makeOrigin(`${place}/second`, randomBytes(SIZE));
    const other = await volumes.add({ name: 'other', origin, durability: 'process' });
    const both = volumes.snapshot(['volume', 'other'], provider.name);
    if (!provider.can.group) {
      t.equal(await codeOf(() => both), 'PROVIDER_UNAVAILABLE');
      t.same(volumes.snapshots(), [], 'and nothing was taken');
      return;
    }
    const made = await both;
    t.equal(made.length, 2);
    t.equal(new Set(made.map(({ group }) => group)).size, 1);
    t.equal(new Set(made.map(({ time }) => time)).size, 1, 'one moment');
    const model = Buffer.from(bytes);
    await write(volume, bytes, 0, randomBytes(CHUNK));
    t.ok((await reads(volume, made[0]!.id)).equals(model));
    t.ok((await reads(other, made[1]!.id)).equals(readFileSync(origin)));
    await volumes.deleteSnapshot(made[0]!.group);
    t.same(volumes.snapshots(), [], 'the group’s id stands for all of it');
  });

  t.test('release: a range is kept no longer, or a refusal', async t => {
    const { volumes, volume, bytes, take } = await setUp(t);
    const { id } = await take();
    const model = Buffer.from(bytes);
    const released = volumes.release(id, Float64Array.of(0, 2 * CHUNK));
    if (!provider.can.release) {
      t.equal(await codeOf(() => released), 'SNAPSHOT_FAILED');
      t.ok((await reads(volume, id)).equals(model));
      return;
    }
    await released;
    const { native } = volume.disk(id);
    t.not(await codeOf(() => native.read(CHUNK, Buffer.alloc(512))), '', 'what was released is an error');
    const rest = Buffer.alloc(SIZE - 2 * CHUNK);
    await native.read(2 * CHUNK, rest);
    t.ok(rest.equals(model.subarray(2 * CHUNK)));
    t.equal(await codeOf(() => volumes.release(id, Float64Array.of(SIZE, 512))), 'OUT_OF_RANGE');
  });
}

async function readAll(
  disk: { read(offset: number, into: Uint8Array): Promise<void> },
  size: number,
): Promise<Buffer> {
  const all = Buffer.alloc(size);
  await disk.read(0, all);
  return all;
}
