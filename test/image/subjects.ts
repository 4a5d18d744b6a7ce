/**
 * Little images of every format of blocks, whole, with the content from which they were made, for tests of damage.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parallels } from '../fixtures/parallels.js';
import { vdi } from '../fixtures/vdi.js';
import { vhd } from '../fixtures/vhd.js';
import { DATA_WRITE, vhdx, withLog } from '../fixtures/vhdx.js';
import type { Subject } from './damage.js';
import { noise } from './peer.js';

/** Noise with holes of zeros, of a size that is no multiple of any block. */
export function content(seed: number, length = 300 * 512): Buffer {
  const bytes = noise(seed, length);
  bytes.fill(0, 40_960, 61_440);
  bytes.fill(0, 131_072, 139_264);
  return bytes;
}

/** `base`, and on top of it what `holds` says of `over`. */
export function overlaid(base: Buffer, over: Buffer, holds: (sector: number) => boolean): Buffer {
  const both = Buffer.from(base);
  for (let i = 0; i * 512 < both.length; i++) if (holds(i)) over.copy(both, i * 512, i * 512, (i + 1) * 512);
  return both;
}

export const isZero = (bytes: Buffer, sector: number) =>
  bytes.subarray(sector * 512, (sector + 1) * 512).every(byte => byte === 0);

/** Some sectors of some blocks, the first among them. */
export const some = (sector: number) => sector === 0 || (sector % 64 < 40 && sector % 7 !== 3);

/** The subjects; their parents are written into `dir`. */
export function subjects(dir: string): Subject[] {
  return [...vhds(dir), ...vdis(dir), ...vhdxs(dir), ...expanding(dir)];
}

function vhds(dir: string): Subject[] {
  const base = content(1);
  const over = noise(2, base.length);
  const id = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
  const dynamic = vhd({
    kind: 'dynamic',
    content: base,
    holds: sector => !isZero(base, sector),
    order: mixed,
  });
  writeFileSync(join(dir, 'base.vhd'), vhd({ kind: 'fixed', content: base, id }).bytes);
  const child = vhd({
    kind: 'differencing',
    content: over,
    holds: some,
    parent: { id, relative: '.\\base.vhd', absolute: 'C:\\disks\\base.vhd', name: 'base.vhd' },
  });
  const fixed = vhd({ kind: 'fixed', content: base });
  return [
    { name: 'vhd fixed', path: join(dir, 'fixed.vhd'), content: base, ...fixed },
    { name: 'vhd dynamic', path: join(dir, 'dynamic.vhd'), content: base, ...dynamic },
    { name: 'vhd differencing', path: join(dir, 'child.vhd'), content: overlaid(base, over, some), ...child },
  ];
}

/** Another order of blocks in the file than on the disk. */
export const mixed = (blocks: number[]) => [...blocks].sort((a, b) => ((a * 7) % 5) - ((b * 7) % 5));

function vdis(dir: string): Subject[] {
  const base = content(1);
  const over = noise(2, base.length);
  const id = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
  const changed = Buffer.alloc(16, 0x77);
  const blockSize = 8192;
  const holds = (block: number) => block === 0 || block % 3 === 1;
  const bySector = (sector: number) => holds(Math.floor((sector * 512) / blockSize));
  writeFileSync(
    join(dir, 'base.vdi'),
    vdi({ kind: 'dynamic', content: base, blockSize, id, changed, align: 512 }).bytes,
  );
  const fixed = vdi({ kind: 'fixed', content: base, blockSize, align: 512 });
  const dynamic = vdi({ kind: 'dynamic', content: base, blockSize, order: mixed, align: 512 });
  const parent = { id, changed };
  const child = vdi({
    kind: 'differencing',
    content: over,
    blockSize,
    holds,
    parent,
    order: mixed,
    align: 512,
  });
  // A block that is free and one that is zeros differ in a bit; the last block may be cut anywhere by the size.
  const untold = (at: number, bit: number) =>
    (at % 4 === 0 && bit === 0 && at >= 512) || (at >= 0x171 && at <= 0x172);
  return [
    { name: 'vdi fixed', path: join(dir, 'fixed.vdi'), content: base, ...fixed, untold },
    { name: 'vdi dynamic', path: join(dir, 'dynamic.vdi'), content: base, ...dynamic, untold },
    {
      name: 'vdi differencing',
      path: join(dir, 'child.vdi'),
      content: overlaid(base, over, bySector),
      ...child,
      untold,
    },
  ];
}

function vhdxs(dir: string): Subject[] {
  const mib = 2 ** 20;
  const base = content(1, mib + 300 * 512);
  const over = noise(2, base.length);
  const parent = { parent_linkage: `{${DATA_WRITE}}`, relative_path: '.\\base.vhdx' };
  writeFileSync(join(dir, 'base.vhdx'), vhdx({ content: base }).bytes);
  const dynamic = vhdx({ content: base });
  const child = vhdx({
    content: over,
    holds: some,
    parent,
    dataWriteId: `${'7'.repeat(8)}-0000-0000-0000-000000000000`,
  });
  const places = [3 * mib, 2 * mib, 2 * mib + 65_536];
  const dirty = withLog(
    { content: base },
    places.map(offset => ({ offset, length: 4096 })),
    3,
  );
  // Of a block's state, whole and zeros, or whole and partly, differ in a bit.
  const untold = (at: number, bit: number) => at >= dynamic.table && at % 8 === 0 && (bit === 0 || bit === 2);
  return [
    { name: 'vhdx dynamic', path: join(dir, 'dynamic.vhdx'), content: base, ...dynamic, untold },
    {
      name: 'vhdx differencing',
      path: join(dir, 'child.vhdx'),
      content: overlaid(base, over, some),
      ...child,
      untold,
    },
    {
      name: 'vhdx with a log',
      path: join(dir, 'dirty.vhdx'),
      content: base,
      bytes: dirty.bytes,
      // A last entry that is not whole may be a torn write.
      tables: dirty.logEntries.slice(0, -1),
    },
  ];
}

/** Of Parallels. */
function expanding(dir: string): Subject[] {
  const base = content(1);
  return (['sectors', 'blocks'] as const).map(entries => {
    const image = parallels({ content: base, entries, order: mixed });
    const isEntry = (at: number) => at >= 64 && at < 64 + Math.ceil(base.length / 8192) * 4;
    // A block of which only one bit is set is one bit away from none; the last block may be cut anywhere by the size.
    const untold = (at: number, bit: number) => {
      if (at === 36 || at === 37) return true;
      const entry = at - (at % 4);
      return isEntry(at) && image.bytes.readUInt32LE(entry) === 2 ** (bit + (at - entry) * 8);
    };
    return {
      name: `parallels ${entries}`,
      path: join(dir, `${entries}.hdd`),
      content: base,
      ...image,
      untold,
    };
  });
}
