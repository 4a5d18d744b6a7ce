/**
 * An overlay is a byte array: whatever is written, zeroed, flushed and closed in any order, reads give what the array has,
 * what SEEK_DATA passes over is zeros, and the point below keeps every byte.
 */
import { closeSync, mkdtempSync, openSync, rmSync, statSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { NativeOverlay } from '../../src/native.js';
import { type Base, baseOf, keptOn, openOverlay, randomBytesOf, randomOf } from './rig.js';

const ROUNDS = 8;
const STEPS = 120;

const folder = mkdtempSync(join(tmpdir(), 'asof-overlay-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

async function compare(overlay: NativeOverlay, model: Buffer, what: string): Promise<void> {
  const disk = overlay.disk();
  const all = Buffer.alloc(model.length);
  await disk.read(0, all);
  if (all.equals(model)) return;
  const at = all.findIndex((byte, i) => byte !== model[i]);
  throw new Error(`${what}: byte ${at} is ${all[at]}, should be ${model[at]}`);
}

/** What is no data is zeros, and no run is endless. */
async function compareHoles(overlay: NativeOverlay, model: Buffer): Promise<number> {
  const disk = overlay.disk();
  let data = 0;
  for (let at = 0; at < model.length; ) {
    const found = await disk.seek(at, false);
    const stop = found < 0 ? model.length : found;
    if (stop < at) throw new Error(`SEEK_DATA from ${at} went back to ${stop}`);
    if (model.subarray(at, stop).some(byte => byte !== 0))
      throw new Error(`a hole at ${at} to ${stop} has data`);
    if (stop === model.length) break;
    const end = await disk.seek(stop, true);
    if (end <= stop) throw new Error(`SEEK_HOLE from ${stop} gave ${end}`);
    data += end - stop;
    at = end;
  }
  return data;
}

function pointOf(random: (n: number) => number, seed: number): Base {
  // Sizes that end within a block, within a sector, and on a block.
  const size = 600_000 + [0, 512, 1000, 4096 - (600_000 % 4096)][seed % 4]!;
  const zero = Array.from({ length: 3 }, (_, i) => {
    const start = i * 200_000 + random(100_000);
    return [start, start + random(90_000) + 1] as const;
  });
  return baseOf(folder, randomBytesOf(seed, size), { zero });
}

for (const kept of [true, false]) {
  t.test(kept ? 'a layer that is kept' : 'one that is thrown away', async t => {
    let holes = 0;
    for (let seed = 1; seed <= ROUNDS; seed++) {
      const random = randomOf(seed * 7919 + (kept ? 1 : 0));
      const base = pointOf(random, seed);
      const { size } = base;
      const model = Buffer.from(base.bytes);
      const path = join(folder, `layer-${kept}-${seed}`);
      const open = (create: boolean) => keptOn(base, path, { create });
      let overlay = kept ? await open(true) : await scratch(base);
      await compare(overlay, model, 'untouched');
      for (let step = 0; step < STEPS; step++) {
        const disk = overlay.disk();
        const what = random(100);
        const unit = [1, 512, 4096][random(3)]!;
        const offset = Math.min(size - 1, random(Math.ceil(size / unit)) * unit);
        const length = Math.min(size - offset, random(random(4) === 0 ? 40 : 4) * unit + random(unit) + 1);
        if (what < 50) {
          const bytes = randomBytesOf(seed * 1000 + step, (length + 3) & ~3).subarray(0, length);
          bytes.copy(model, offset);
          await disk.write(offset, bytes);
        } else if (what < 75) {
          model.fill(0, offset, offset + length);
          await disk.writeZeroes(offset, length, random(2) === 0);
        } else if (what < 82) {
          await disk.flush();
        } else if (what < 95) {
          const into = Buffer.alloc(length);
          await disk.read(offset, into);
          if (!into.equals(model.subarray(offset, offset + length))) {
            throw new Error(`seed ${seed}, step ${step}: ${length} bytes at ${offset} differ`);
          }
        } else if (kept) {
          await overlay.close();
          overlay = await open(false);
        }
      }
      await compare(overlay, model, `seed ${seed}`);
      const data = await compareHoles(overlay, model);
      const { allocated, written } = overlay.facts();
      if (allocated > size || written > Math.ceil(size / 4096) * 4096)
        throw new Error(`allocated ${allocated}, of it written ${written}, of ${size}`);
      holes += size - data;
      await overlay.close();
      if (kept) {
        overlay = await open(false);
        await compare(overlay, model, `seed ${seed}, opened again`);
        await overlay.close();
      }
      if (!base.unchanged()) throw new Error(`seed ${seed}: the point below has changed`);
      base.close();
    }
    t.ok(holes > 0, `${ROUNDS} rounds of ${STEPS}, ${holes} bytes of holes`);
  });
}

/** A file without a name. */
async function scratch(base: Base): Promise<NativeOverlay> {
  const path = join(folder, 'scratch');
  const fd = openSync(path, 'w+');
  unlinkSync(path);
  try {
    return await openOverlay({ base: base.native, file: fd, kept: null });
  } finally {
    closeSync(fd);
  }
}

t.test('space comes back', async t => {
  const base = baseOf(folder, randomBytesOf(99, 8 << 20));
  const path = join(folder, 'space');
  const overlay = await keptOn(base, path, { create: true });
  const disk = overlay.disk();
  await disk.write(0, randomBytesOf(5, 8 << 20));
  await disk.flush();
  const full = statSync(path).blocks;
  await disk.writeZeroes(0, 8 << 20, true);
  await disk.flush();
  t.ok(statSync(path).blocks < full - (7 << 20) / 512, 'what is discarded gives its space back');
  t.equal(await disk.seek(0, false), -1, 'and is no data, whatever is below');
  t.equal(overlay.facts().allocated < 1 << 20, true);
  await overlay.close();
  base.close();
});
