/**
 * Random sequences of everything that a volume can do, against byte arrays: the live device and every snapshot hold
 * exactly what the arrays say, after each step that could disturb them and across restarts.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { codeOf, epochOf, filled, openVolume, randomOf, readAll, snapshot } from './rig.js';

interface Shape {
  readonly chunkSize: number;
  readonly size: number;
  readonly store: 'memory' | 'file';
  readonly durability: 'power' | 'process';
  readonly timeoutMs: number;
}

const SHAPES: readonly Shape[] = [
  { chunkSize: 4096, size: 256 * 1024 + 512, store: 'file', durability: 'process', timeoutMs: 0 },
  { chunkSize: 65536, size: 2 * 2 ** 20 + 1536, store: 'file', durability: 'process', timeoutMs: 0 },
  { chunkSize: 65536, size: 3 * 2 ** 20, store: 'file', durability: 'power', timeoutMs: 20_000 },
  { chunkSize: 1 << 20, size: 5 * 2 ** 20 + 4096, store: 'file', durability: 'process', timeoutMs: 0 },
  { chunkSize: 65536, size: 2 * 2 ** 20 + 512, store: 'memory', durability: 'process', timeoutMs: 0 },
];

const ROUNDS = Number(process.env['ASOF_COW_ROUNDS'] ?? 1);
const STEPS = 200;

async function run(shape: Shape, seed: number, dir: string): Promise<number> {
  const random = randomOf(seed);
  const origin = openSync(join(dir, `origin-${seed}`), 'w+');
  ftruncateSync(origin, shape.size);
  const store = shape.store === 'file' ? openSync(join(dir, `store-${seed}`), 'w+') : null;
  const tracker = openSync(join(dir, `tracker-${seed}`), 'w+');
  const open = (create: boolean) => openVolume({ ...shape, origin, store, tracker, create });
  let { volume, live } = await open(true);
  let now: Buffer<ArrayBuffer> = Buffer.alloc(shape.size);
  // The expected bytes of each snapshot; released chunks.
  let points: { id: string; bytes: Buffer; released: Set<number>; epoch: number }[] = [];
  let stamp = 1;
  let checks = 0;

  const range = (unit: number): [number, number] => {
    const most = [unit, 4096, shape.chunkSize, 3 * shape.chunkSize][random(4)]!;
    const offset = random(Math.ceil(shape.size / unit)) * unit;
    return [offset, Math.min(shape.size - offset, (1 + random(Math.ceil(most / unit))) * unit)];
  };
  const check = async (point: (typeof points)[number], offset: number, length: number) => {
    const into = Buffer.alloc(length);
    const first = Math.floor(offset / shape.chunkSize);
    const last = Math.floor((offset + length - 1) / shape.chunkSize);
    let gone = false;
    for (let chunk = first; chunk <= last; chunk++) gone ||= point.released.has(chunk);
    const code = await codeOf(volume.disk(point.id).read(offset, into));
    if (code !== (gone ? 'DAMAGED' : '')) throw new Error(`seed ${seed}: read gave '${code}'`);
    if (!gone && !into.equals(point.bytes.subarray(offset, offset + length))) {
      throw new Error(`seed ${seed}: snapshot differs within ${offset}+${length}`);
    }
    checks++;
  };
  const checkAll = async () => {
    for (const point of points) {
      for (let at = 0; at < shape.size; at += shape.chunkSize) {
        await check(point, at, Math.min(shape.chunkSize, shape.size - at));
      }
    }
    if (!(await readAll(live, shape.size)).equals(now))
      throw new Error(`seed ${seed}: the live device differs`);
  };

  for (let step = 0; step < STEPS; step++) {
    const what = random(100);
    if (what < 50) {
      const [offset, length] = range(random(2) ? 512 : 1);
      const bytes = filled(length, stamp++);
      await live.write(offset, bytes);
      bytes.copy(now, offset);
    } else if (what < 60) {
      const [offset, length] = range(512);
      await live.writeZeroes(offset, length, random(2) === 0);
      now.fill(0, offset, offset + length);
    } else if (what < 68) {
      const id = await snapshot(volume);
      points.push({ id, bytes: Buffer.from(now), released: new Set(), epoch: epochOf(volume, id) });
    } else if (what < 72 && points.length > 0) {
      const [gone] = points.splice(random(points.length), 1);
      await volume.delete(gone!.id);
      if ((await codeOf((async () => volume.disk(gone!.id))())) !== 'ENOENT')
        throw new Error('a deleted snapshot opens');
    } else if (what < 75 && points.length > 0) {
      const point = points[random(points.length)]!;
      const first = random(Math.ceil(shape.size / shape.chunkSize));
      const start = first * shape.chunkSize;
      const length = Math.min(shape.chunkSize * (1 + random(3)), shape.size - start);
      await volume.release(point.id, Float64Array.of(start, length), 0);
      for (let at = start; at < start + length; at += shape.chunkSize)
        point.released.add(at / shape.chunkSize);
    } else if (what < 90 && points.length > 0) {
      const [offset, length] = range(1);
      await check(points[random(points.length)]!, offset, length);
    } else if (what < 94) {
      await live.flush();
    } else if (what < 97 && points.length > 0) {
      // Exactly the chunks that differ, or were written with what they held: never fewer.
      const since = points[random(points.length)]!;
      const { runs } = await volume.changes(since.epoch, 0);
      const changed = new Set<number>();
      for (let i = 0; i < runs.length; i += 2) {
        for (let at = runs[i]!; at < runs[i]! + runs[i + 1]!; at += shape.chunkSize)
          changed.add(at / shape.chunkSize);
      }
      for (let chunk = 0; chunk * shape.chunkSize < shape.size; chunk++) {
        const part = [chunk * shape.chunkSize, (chunk + 1) * shape.chunkSize] as const;
        if (changed.has(chunk)) continue;
        if (!now.subarray(...part).equals(since.bytes.subarray(...part)))
          throw new Error(`seed ${seed}: a change is missing`);
      }
    } else if (shape.store === 'file') {
      const clean = random(2) === 0;
      if (clean) await volume.close();
      else volume.abandon();
      const next = await open(false);
      if (next.found.clean !== clean || next.found.tracking !== '' || next.found.broken !== '') {
        throw new Error(
          `seed ${seed}: ${JSON.stringify(next.found)} after a ${clean ? 'clean' : 'hard'} stop`,
        );
      }
      volume = next.volume;
      live = next.live;
      await checkAll();
    }
  }
  await checkAll();
  for (const point of points) await volume.delete(point.id);
  points = [];
  const { preserved } = volume.activity();
  if (preserved !== 0) throw new Error(`seed ${seed}: ${preserved} copies are left without a snapshot`);
  await volume.close();
  closeSync(origin);
  closeSync(tracker);
  if (store !== null) closeSync(store);
  now = Buffer.alloc(0);
  return checks;
}

for (const shape of SHAPES) {
  t.test(JSON.stringify(shape), async t => {
    const dir = mkdtempSync(join(tmpdir(), 'asof-cow-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    let checks = 0;
    for (let round = 0; round < 2 * ROUNDS; round++) checks += await run(shape, 1000 + round, dir);
    t.ok(checks > 100, `${checks} reads of snapshots compared`);
  });
}
