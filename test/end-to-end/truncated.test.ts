/**
 * A qcow2 whose end is missing: every sector that is gone is an I/O error, every other one is right, and the doctor
 * names the same ranges. Where clusters lie in the whole image is qemu-img's answer. (qemu 7.2 itself reads most of
 * what is gone as zeros.)
 */
import { constants } from 'node:fs';
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { pattern, qemuIo } from './images.js';
import { asof, mount, scratch } from './mounted.js';

const skip = missing(['qemu-img', 'qemu-io'], ['fuse']);
const CLUSTER = 65_536;
const CLUSTERS = 256;

interface Range {
  readonly offset: number;
  readonly length: number;
}

for (const [name, cut] of [
  ['between two clusters', 0],
  ['within a cluster', 10 * 512],
] as const) {
  t.test(`cut ${name}`, { skip }, async t => {
    const folder = await scratch(t);
    const image = join(folder, 'cut.qcow2');
    const raw = join(folder, 'whole.raw');
    await writeInDisorder(folder);
    await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, raw]);
    const map = JSON.parse(
      await run('qemu-img', ['map', '--output=json', '-f', 'qcow2', image]),
    ) as readonly { start: number; length: number; offset?: number }[];
    const end = Math.floor(((await stat(image)).size * 0.6) / CLUSTER) * CLUSTER + cut;
    await truncate(image, end);

    const gone = joined(
      map.flatMap(({ start, length, offset }) => {
        if (offset === undefined || offset + length <= end) return [];
        const kept = Math.max(0, end - offset);
        return [{ offset: start + kept, length: length - kept }];
      }),
    );
    t.ok(gone.length > 3, `${gone.length} ranges are gone`);

    const mounted = await mount(t, image);
    const met = await badSectors(join(mounted, 'disk'), await readFile(raw));
    t.equal(met.wrong, 0, 'no sector reads wrong');
    t.same(met.bad, gone, 'what fails is what is gone');

    const defects = JSON.parse(await readFile(join(mounted, 'defects.json'), 'utf8'));
    t.same(joined(rangesIn(defects)), gone, 'defects.json has them');
    const checked = await asof('check', image, '--json');
    t.equal(checked.code, 3, 'asof check ends with 3');
    t.same(joined(rangesIn(JSON.parse(checked.stdout.toString()))), gone, 'asof check lists them');
  });
}

/** All clusters, in an order that scatters neighbours over the file. */
async function writeInDisorder(folder: string): Promise<void> {
  await writeFile(join(folder, 'bytes'), pattern(5, CLUSTERS * 511));
  const size = String(CLUSTERS * CLUSTER);
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', 'cut.qcow2', size], { cwd: folder });
  const order = Array.from({ length: CLUSTERS }, (_, i) => (i * 37) % CLUSTERS);
  await qemuIo(
    folder,
    'cut.qcow2',
    order.map(i => `write -s bytes ${i * CLUSTER} ${CLUSTER}`),
  );
}

/** Reads sector by sector, past the page cache so that a read is exactly one request. */
async function badSectors(path: string, truth: Buffer): Promise<{ bad: Range[]; wrong: number }> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECT);
  const bad: Range[] = [];
  let wrong = 0;
  try {
    const sector = Buffer.alloc(512); // FUSE takes memory at any address for O_DIRECT.
    for (let offset = 0; offset < truth.length; offset += 512) {
      try {
        const { bytesRead } = await handle.read(sector, 0, 512, offset);
        if (bytesRead !== 512 || sector.compare(truth, offset, offset + 512) !== 0) wrong++;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EIO') throw error;
        bad.push({ offset, length: 512 });
      }
    }
  } finally {
    await handle.close();
  }
  return { bad: joined(bad), wrong };
}

/** Every `offset` and `length` of numbers, in whatever shape the answer has. */
function rangesIn(value: unknown): Range[] {
  if (Array.isArray(value)) return value.flatMap(rangesIn);
  if (value === null || typeof value !== 'object') return [];
  const { offset, length } = value as Record<string, unknown>;
  if (typeof offset === 'number' && typeof length === 'number') return [{ offset, length }];
  return Object.values(value).flatMap(rangesIn);
}

function joined(ranges: readonly Range[]): Range[] {
  const all: Range[] = [];
  for (const { offset, length } of [...ranges].sort((a, b) => a.offset - b.offset)) {
    const last = all.at(-1);
    if (last && offset <= last.offset + last.length) {
      const end = Math.max(last.offset + last.length, offset + length);
      all[all.length - 1] = { offset: last.offset, length: end - last.offset };
    } else {
      all.push({ offset, length });
    }
  }
  return all;
}
