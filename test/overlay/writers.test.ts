/**
 * Many writers at once, on threads of their own, whose sectors lie in the same blocks: each finds what it wrote, and whoever
 * reads meanwhile sees of each sector what was below or what was written, never a block that is half filled.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { baseOf, keptOn, randomOf, readAll } from './rig.js';

const SECTOR = 512;
const BLOCKS = 96;
const SIZE = BLOCKS * 4096;
const WRITERS = 4;
const BELOW = 0xbe;

t.test('sectors of the same blocks', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'asof-overlay-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const base = baseOf(folder, Buffer.alloc(SIZE, BELOW));
  t.teardown(() => base.close());
  for (let round = 0; round < 12; round++) {
    const path = join(folder, `layer-${round}`);
    const overlay = await keptOn(base, path, { create: true });
    const disk = overlay.disk();
    const model = Buffer.from(base.bytes);
    let wrong = '';
    const write = async (writer: number) => {
      const random = randomOf(round * 100 + writer);
      // Each has every fourth sector, in an order of its own.
      const mine = Array.from({ length: SIZE / SECTOR / WRITERS }, (_, i) => i * WRITERS + writer);
      for (let i = mine.length - 1; i > 0; i--) {
        const j = random(i + 1);
        [mine[i], mine[j]] = [mine[j]!, mine[i]!];
      }
      for (const sector of mine) {
        const value = writer * 40 + (sector % 39) + 1;
        model.fill(value, sector * SECTOR, (sector + 1) * SECTOR);
        if (random(8) === 0) {
          model.fill(0, sector * SECTOR, (sector + 1) * SECTOR);
          await disk.writeZeroes(sector * SECTOR, SECTOR, true);
        } else await disk.write(sector * SECTOR, Buffer.alloc(SECTOR, value));
        if (random(64) === 0) await disk.flush();
      }
    };
    let writing = true;
    const read = async () => {
      const random = randomOf(round);
      const into = Buffer.alloc(8 * 4096);
      while (writing) {
        const first = random(BLOCKS - 8);
        await disk.read(first * 4096, into);
        for (let at = 0; at < into.length; at += SECTOR) {
          const sector = (first * 4096 + at) / SECTOR;
          const allowed = [BELOW, 0, (sector % WRITERS) * 40 + (sector % 39) + 1];
          const [value] = into.subarray(at, at + 1);
          if (!allowed.includes(value!) || into.subarray(at, at + SECTOR).some(byte => byte !== value)) {
            wrong ||= `round ${round}: sector ${sector} reads as ${value}, may be ${allowed}`;
          }
        }
      }
    };
    const reading = read();
    await Promise.all(Array.from({ length: WRITERS }, (_, writer) => write(writer)));
    writing = false;
    await reading;
    if (wrong !== '') throw new Error(wrong);
    if (!(await readAll(disk, SIZE)).equals(model)) throw new Error(`round ${round}: a write is lost`);
    await overlay.close();
    const again = await keptOn(base, path);
    if (!(await readAll(again.disk(), SIZE)).equals(model))
      throw new Error(`round ${round}: lost by the close`);
    await again.close();
  }
  t.ok(base.unchanged());
});
