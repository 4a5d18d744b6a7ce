/**
 * A snapshot that is drained, against a model: what is preserved for it is told, each chunk, and no other; what has been given
 * back is an error and never copied again; all else of it, and an older snapshot that nobody drains, stay as they were.
 */
import t from 'tap';
import { CowMachine, codeOf, filled, openVolume, randomOf, readAll, snapshot } from './rig.js';

const CHUNK = 16384;
const CHUNKS = 2100;
const SIZE = CHUNKS * CHUNK - 512;

const bytesOf = (runs: Float64Array): number[] => {
  const chunks: number[] = [];
  for (let i = 0; i < runs.length; i += 2) {
    for (let at = runs[i]!; at < runs[i]! + runs[i + 1]!; at += CHUNK) chunks.push(at / CHUNK);
  }
  return chunks;
};

t.test('random writes, questions and gifts', async t => {
  const machine = new CowMachine([SIZE]);
  const before = filled(SIZE, 1);
  machine.setBytes(0, before);
  const { volume, live } = await openVolume({ size: SIZE, chunkSize: CHUNK, origin: { machine, file: 0 } });
  const random = randomOf(3);
  const older = await snapshot(volume);
  await live.write(5 * CHUNK, filled(CHUNK, 2));
  const now = Buffer.from(before);
  filled(CHUNK, 2).copy(now, 5 * CHUNK);
  const drained = await snapshot(volume);
  const written = new Set<number>();
  const given = new Set<number>();
  const told = new Set<number>();
  const write = async (chunk: number) => {
    const length = Math.min(CHUNK, SIZE - chunk * CHUNK);
    await live.write(chunk * CHUNK, filled(length, 3 + written.size));
    if (!given.has(chunk)) written.add(chunk);
  };
  // Before the first question too.
  for (let i = 0; i < 20; i++) await write(random(CHUNKS));
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < 10; i++) await write(random(CHUNKS));
    if (round % 3 === 0) {
      const first = random(CHUNKS);
      const end = Math.min(CHUNKS, first + 1 + random(40));
      await volume.release(
        drained,
        Float64Array.of(first * CHUNK, Math.min(end * CHUNK, SIZE) - first * CHUNK),
        9,
      );
      for (let chunk = first; chunk < end; chunk++) given.add(chunk);
    }
    // Few at once, so that the rest comes later.
    for (const chunk of bytesOf(await volume.preserved(drained, 3))) told.add(chunk);
  }
  for (let last = -1; last !== told.size; ) {
    last = told.size;
    for (const chunk of bytesOf(await volume.preserved(drained, 1000))) told.add(chunk);
  }
  t.same(
    [...written].filter(chunk => !told.has(chunk) && !given.has(chunk)),
    [],
    'all that was preserved is told',
  );
  t.same(
    [...told].filter(chunk => !written.has(chunk)),
    [],
    'and nothing else',
  );
  let wrong = 0;
  const into = Buffer.alloc(CHUNK);
  const disk = volume.disk(drained);
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const part = into.subarray(0, Math.min(CHUNK, SIZE - chunk * CHUNK));
    const code = await codeOf(disk.read(chunk * CHUNK, part));
    if (code !== (given.has(chunk) ? 'DAMAGED' : '')) wrong++;
    if (code === '' && !part.equals(now.subarray(chunk * CHUNK, chunk * CHUNK + part.length))) wrong++;
  }
  t.equal(wrong, 0, 'each chunk is its own or an error');
  t.ok((await readAll(volume.disk(older), SIZE)).equals(before), 'the older one is whole');
  await volume.delete(older);
  const { copies } = volume.activity();
  for (const chunk of given) await write(chunk);
  t.equal(volume.activity().copies, copies, 'what was given back is not copied');
  await volume.release(drained, Float64Array.of(0, SIZE), 0);
  t.equal(volume.activity().preserved, 0, 'nothing is kept');
  await volume.delete(drained);
  t.equal(await codeOf(volume.preserved(drained, 1)), 'ENOENT');
  await volume.close();
});
