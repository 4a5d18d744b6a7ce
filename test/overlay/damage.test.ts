/**
 * A layer that is not what it was: cut, with any byte of its header and map changed or lost, of another point, or no layer at
 * all. Whoever opens it gets an error or the right bytes, and never what lies below in place of what was written.
 */
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { Overlay } from '../../src/block/overlay.js';
import { baseOf, codeOf, emptyBase, keptOn, openOverlay, randomBytesOf, randomOf } from './rig.js';

const BLOCK = 4096;
/** Of one page of the map. */
const PAGE = 32256 * BLOCK;

const folder = mkdtempSync(join(tmpdir(), 'asof-overlay-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

t.test('header and map', async t => {
  // Three pages of the map, of which the middle one is never used.
  const base = emptyBase(3 * PAGE);
  t.teardown(() => base.close());
  const path = join(folder, 'layer');
  const overlay = await keptOn(base, path, { create: true });
  const places = [0, 5 * BLOCK, PAGE - BLOCK, 2 * PAGE, 2 * PAGE + 7 * BLOCK, 3 * PAGE - BLOCK];
  const stamps = places.map((_, i) => Buffer.alloc(BLOCK, i + 1));
  for (const [i, place] of places.entries()) await overlay.disk().write(place, stamps[i]!);
  await overlay.close();
  const head = headOf(path);
  const restore = () => {
    const fd = openSync(path, 'r+');
    writeSync(fd, head, 0, head.length, 0);
    closeSync(fd);
  };

  /** 'refused', or 'right'; throws where bytes are wrong. */
  const look = async (what: string): Promise<'refused' | 'right'> => {
    let again: Awaited<ReturnType<typeof keptOn>>;
    try {
      again = await keptOn(base, path);
    } catch (error) {
      const { code } = error as { code: string };
      if (!['EUCLEAN', 'EINVAL', 'ESTALE'].includes(code)) throw error;
      return 'refused';
    }
    for (const [i, place] of places.entries()) {
      const into = Buffer.alloc(BLOCK);
      await again.disk().read(place, into);
      if (!into.equals(stamps[i]!)) throw new Error(`${what}: the block at ${place} is not what was written`);
    }
    await again.close();
    return 'right';
  };

  const MAP = 2 * BLOCK;
  const areas: Record<string, readonly (readonly [start: number, length: number])[]> = {
    'header 0': [[0, BLOCK]],
    'header 1': [[BLOCK, BLOCK]],
    'map, copy 0': [[MAP, 3 * BLOCK]],
    'map, copy 1': [[MAP + 3 * BLOCK, 3 * BLOCK]],
    'both headers': [
      [0, BLOCK],
      [BLOCK, BLOCK],
    ],
    'both copies of the first page': [
      [MAP, BLOCK],
      [MAP + 3 * BLOCK, BLOCK],
    ],
    'both copies of the last page': [
      [MAP + 2 * BLOCK, BLOCK],
      [MAP + 5 * BLOCK, BLOCK],
    ],
  };
  const random = randomOf(4711);
  for (const [name, ranges] of Object.entries(areas)) {
    const seen = { refused: 0, right: 0 };
    for (let round = 0; round < 24; round++) {
      const fd = openSync(path, 'r+');
      for (const [start, length] of ranges) {
        // One bit, a sector of noise, a sector of zeros, or all of it lost; and in the fields at the start more often.
        const how = round % 4;
        const at = start + (how === 0 && round % 8 === 0 ? random(96) : random(length / 512) * 512);
        const byte = Buffer.alloc(1);
        readSync(fd, byte, 0, 1, at);
        if (how === 0) writeSync(fd, Buffer.of(byte[0]! ^ (1 << random(8))), 0, 1, at);
        else if (how === 3) writeSync(fd, Buffer.alloc(length), 0, length, start);
        else writeSync(fd, how === 1 ? randomBytesOf(round, 512) : Buffer.alloc(512), 0, 512, at);
      }
      closeSync(fd);
      seen[await look(`${name}, round ${round}`)]++;
      restore();
    }
    if (ranges.length === 1) t.equal(seen.refused, 0, `${name}: the other copy says it`);
    else t.ok(seen.refused > 0, `${name}: refused ${seen.refused}, right ${seen.right}`);
  }

  // A page in the place of another one, which was never used.
  const fd = openSync(path, 'r+');
  writeSync(fd, head, 2 * BLOCK, BLOCK, 3 * BLOCK);
  writeSync(fd, head, 2 * BLOCK, BLOCK, 6 * BLOCK);
  writeSync(fd, Buffer.alloc(BLOCK), 0, BLOCK, 2 * BLOCK);
  writeSync(fd, Buffer.alloc(BLOCK), 0, BLOCK, 5 * BLOCK);
  closeSync(fd);
  t.equal(await look('a page in another place'), 'refused', 'a page in another place');
  restore();
  t.equal(await look('restored'), 'right');

  const full = (1 << 20) + 3 * PAGE;
  for (const size of [full - 1, (1 << 20) + PAGE, 1 << 20, 5 * BLOCK, 3 * BLOCK, BLOCK, 100, 0]) {
    truncateSync(path, size);
    t.equal(await look(`cut to ${size}`), 'refused', `cut to ${size} bytes`);
  }
});

/** Headers and map. */
function headOf(path: string): Buffer {
  const head = Buffer.alloc(8 * BLOCK);
  const fd = openSync(path, 'r');
  readSync(fd, head, 0, head.length, 0);
  closeSync(fd);
  return head;
}

t.test('the layer of another point, and what is no layer', async t => {
  const base = baseOf(folder, randomBytesOf(1, 64 * BLOCK));
  const smaller = baseOf(folder, randomBytesOf(2, 63 * BLOCK));
  t.teardown(() => base.close());
  t.teardown(() => smaller.close());
  const path = join(folder, 'kept');
  const as = (point: { size: number; native: typeof base.native }, identity: string) =>
    Overlay.open({ ...point, identity, label: `the point ${identity}` }, { path });
  const first = await as(base, 'one');
  await first.native.write(3 * BLOCK, Buffer.alloc(BLOCK, 7));
  t.match(first.info(), { file: path, written: BLOCK });
  t.equal(await codeOf(as(base, 'one')), 'OVERLAY_UNUSABLE', 'it is open already');
  await first.close();
  await first.close();
  t.equal(await codeOf(first.native.read(0, Buffer.alloc(1))), 'ESHUTDOWN');
  t.equal(await codeOf(first.native.write(0, Buffer.alloc(1))), 'ESHUTDOWN');

  const before = readFileSync(path);
  await t.rejects(as(base, 'two'), { code: 'OVERLAY_UNUSABLE', message: /the point one/ });
  await t.rejects(as(smaller, 'one'), { code: 'OVERLAY_UNUSABLE', message: /another point/ });
  t.ok(readFileSync(path).equals(before), 'and it is left as it was');
  const again = await as(base, 'one');
  const into = Buffer.alloc(BLOCK);
  await again.native.read(3 * BLOCK, into);
  t.ok(into.equals(Buffer.alloc(BLOCK, 7)));
  await again.close();

  for (const [name, bytes] of [
    ['nothing', Buffer.alloc(0)],
    ['a disk image', randomBytesOf(3, 9000)],
  ] as const) {
    writeFileSync(path, bytes);
    await t.rejects(as(base, 'one'), { code: 'OVERLAY_UNUSABLE', message: /no layer/ }, name);
    t.ok(readFileSync(path).equals(bytes), `${name} is left as it was`);
  }
  const scratch = { scratch: join(folder, 'nowhere') };
  t.equal(await codeOf(Overlay.open({ ...base, identity: '', label: '' }, scratch)), 'OVERLAY_UNUSABLE');
});

t.test('a point of 16 TiB costs nothing until it is written', async t => {
  const base = emptyBase(2 ** 44);
  t.teardown(() => base.close());
  const fd = openSync(join(folder, 'large'), 'w+');
  const overlay = await openOverlay({ base: base.native, file: fd, kept: null });
  closeSync(fd);
  const disk = overlay.disk();
  const place = 2 ** 43 + 12345;
  await disk.write(place, Buffer.from('here'));
  const into = Buffer.alloc(10);
  await disk.read(place - 3, into);
  t.equal(into.toString('latin1'), '\0\0\0here\0\0\0');
  t.match(overlay.facts(), { written: BLOCK });
  t.ok(overlay.facts().held < 1 << 20);
  t.equal(await disk.seek(0, false), place - (place % BLOCK));
  await disk.writeZeroes(0, PAGE + BLOCK, true);
  t.equal(await disk.seek(0, false), place - (place % BLOCK));
  await overlay.close();
});
