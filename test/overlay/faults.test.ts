/**
 * What goes wrong below and in the layer: sectors of the point that cannot be read, a layer that is full, syncs that fail, a
 * release of what lies below. The writer is told, nothing that was written is lost, and nothing is made up.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { CowVolume, openVolume } from '../cow/rig.js';
import { baseOf, CowMachine, codeOf, keptOn, randomBytesOf, readAll } from './rig.js';

const BLOCK = 4096;

const folder = mkdtempSync(join(tmpdir(), 'asof-overlay-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

t.test('a point with sectors that cannot be read', async t => {
  const bad = [
    [2 * BLOCK + 1024, 2 * BLOCK + 1536],
    [8 * BLOCK, 10 * BLOCK],
  ] as const;
  const base = baseOf(folder, randomBytesOf(1, 16 * BLOCK), { bad });
  t.teardown(() => base.close());
  const overlay = await keptOn(base, join(folder, 'bad'), { create: true });
  const disk = overlay.disk();
  const read = async (offset: number, length: number) => {
    const into = Buffer.alloc(length);
    return (await codeOf(disk.read(offset, into))) || into;
  };
  t.equal(await read(2 * BLOCK, BLOCK), 'DAMAGED');
  t.same(
    await read(2 * BLOCK, 1024),
    base.bytes.subarray(2 * BLOCK, 2 * BLOCK + 1024),
    'beside it all is well',
  );

  t.equal(
    await codeOf(disk.write(2 * BLOCK, Buffer.alloc(1024, 1))),
    'EIO',
    'the rest of the block is not known',
  );
  t.equal(await codeOf(disk.write(BLOCK, Buffer.alloc(BLOCK + 512, 1))), 'EIO');
  t.equal(await codeOf(disk.writeZeroes(9 * BLOCK + 512, 3 * BLOCK, true)), 'EIO');
  t.equal(overlay.facts().written, 0, 'nothing has changed');
  t.same(await read(BLOCK, BLOCK), base.bytes.subarray(BLOCK, 2 * BLOCK));
  t.equal(await read(2 * BLOCK, BLOCK), 'DAMAGED');

  const part = Buffer.alloc(1024, 9);
  await disk.write(2 * BLOCK + 1024, part);
  const healed = Buffer.from(base.bytes.subarray(2 * BLOCK, 3 * BLOCK));
  part.copy(healed, 1024);
  t.same(await read(2 * BLOCK, BLOCK), healed, 'a write over all that is bad heals the block');
  await disk.write(8 * BLOCK, Buffer.alloc(BLOCK, 3));
  t.same(await read(8 * BLOCK, BLOCK), Buffer.alloc(BLOCK, 3), 'so does a whole block');
  t.equal(await read(9 * BLOCK, 1), 'DAMAGED', 'and no other');
  await disk.writeZeroes(9 * BLOCK, BLOCK, false);
  t.same(await read(9 * BLOCK, BLOCK), Buffer.alloc(BLOCK), 'zeros do, too');
  await overlay.close();
  t.ok(base.unchanged());
});

t.test('a layer that is full', async t => {
  const base = baseOf(folder, randomBytesOf(2, 64 * BLOCK));
  t.teardown(() => base.close());
  const machine = new CowMachine([0]);
  const overlay = await keptOn(base, { machine, file: 0 }, { create: true });
  const disk = overlay.disk();
  const model = Buffer.from(base.bytes);
  const write = async (offset: number, bytes: Buffer) => {
    const code = await codeOf(disk.write(offset, bytes));
    if (code === '') bytes.copy(model, offset);
    return code;
  };
  t.equal(await write(BLOCK, Buffer.alloc(2 * BLOCK, 1)), '');
  await disk.flush();
  machine.setFaults(0, { writeError: constants.errno.ENOSPC });
  t.equal(await write(10 * BLOCK + 100, Buffer.alloc(3 * BLOCK, 2)), 'ENOSPC', 'the writer is told');
  t.equal(await codeOf(disk.flush()), '', 'there is nothing that it must write');
  t.same(await readAll(disk, base.size), model, 'nothing is lost');
  machine.setFaults(0, {});
  t.equal(await write(10 * BLOCK + 100, Buffer.alloc(3 * BLOCK, 2)), '', 'with space it goes on');
  machine.setFaults(0, { writeError: constants.errno.ENOSPC });
  t.equal(await codeOf(disk.flush()), 'ENOSPC', 'a flush that cannot write the map says so');
  t.equal(await codeOf(disk.flush()), 'ENOSPC', 'each time');
  machine.setFaults(0, {});
  await disk.flush();
  const after = machine.cut(1);
  const again = await keptOn(base, { machine: after, file: 0 });
  t.same(await readAll(again.disk(), base.size), model, 'and then it is there');
  await again.close();
});

t.test('a sync that fails', async t => {
  const base = baseOf(folder, randomBytesOf(3, 64 * BLOCK));
  t.teardown(() => base.close());
  const machine = new CowMachine([0]);
  const overlay = await keptOn(base, { machine, file: 0 }, { create: true });
  const disk = overlay.disk();
  await disk.write(BLOCK, Buffer.alloc(BLOCK, 1));
  machine.setFaults(0, { syncError: constants.errno.EIO });
  t.equal(await codeOf(disk.flush()), 'EIO');
  machine.setFaults(0, {});
  t.equal(await codeOf(disk.flush()), 'EIO', 'what the kernel dropped once is never called flushed later');
  t.equal(await codeOf(disk.write(0, Buffer.alloc(BLOCK))), 'EIO');
  t.equal(await codeOf(disk.read(BLOCK, Buffer.alloc(1))), 'DAMAGED', 'nor is it read');
  t.equal(await codeOf(disk.read(0, Buffer.alloc(1))), '', 'what lies below is still there');
  t.equal(await codeOf(overlay.close()), 'EIO', 'and the end says it');
});

t.test('without hole punching zeros are written', async t => {
  const base = baseOf(folder, randomBytesOf(4, 1 << 20));
  t.teardown(() => base.close());
  const machine = new CowMachine([0]);
  const overlay = await keptOn(base, { machine, file: 0 }, { create: true });
  machine.setFaults(0, { noPunch: true });
  await overlay.disk().writeZeroes(1000, 500_000, true);
  const model = Buffer.from(base.bytes);
  model.fill(0, 1000, 501_000);
  t.same(await readAll(overlay.disk(), base.size), model);
  await overlay.close();
});

t.test('an overlay over a snapshot of a live volume', async t => {
  const size = 1 << 20;
  const path = join(folder, 'origin');
  const before = randomBytesOf(5, size);
  writeFileSync(path, before);
  const origin = openSync(path, 'r+');
  const { volume, live } = await openVolume({ size, origin });
  closeSync(origin);
  const id = randomUUID();
  await CowVolume.snapshot([{ volume, id }], randomUUID(), 10_000);
  const disk = volume.disk(id);
  const file = join(folder, 'over-snapshot');
  const overlay = await keptOn({ native: disk }, file, { create: true });
  const model = Buffer.from(before);
  for (let i = 0; i < 50; i++) {
    const offset = (i * 20_011) % (size - 5000);
    // The volume changes below, and the snapshot does not.
    await live.write(offset, Buffer.alloc(3000, i));
    const bytes = Buffer.alloc(1500, 100 + i);
    await overlay.disk().write(offset + 700, bytes);
    bytes.copy(model, offset + 700);
  }
  t.same(await readAll(overlay.disk(), size), model);
  t.same(await readAll(disk, size), before, 'the snapshot is what it was');
  t.equal(
    await codeOf(volume.release(id, Float64Array.of(0, size), 0)),
    'EBUSY',
    'what an overlay stands on is in use',
  );
  await overlay.close();
  t.equal(await codeOf(volume.release(id, Float64Array.of(0, size), 0)), '', 'and not afterwards');
  truncateSync(file);
  await volume.close();
});
