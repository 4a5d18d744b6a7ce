/**
 * A slot whose copy was given up is used again only when its header is gone for certain. A copy that came too late is whole
 * and counts as landed: if the next user's bytes lay under its header after a power cut, nobody would look at it again, and
 * a snapshot that was promised whole would read as damaged.
 */
import t from 'tap';
import { CowMachine, codeOf, filled, openVolume, readAll, snapshot } from './rig.js';

const CHUNK = 16384;
const SIZE = 8 * CHUNK;
const STORE = 1;
const CUTS = 60;

t.test('a slot that was given up vouches for nothing after a power cut', async t => {
  const machine = new CowMachine([SIZE, 0, 0]);
  const before = filled(SIZE, 1);
  machine.setBytes(0, before);
  const on = (machine: InstanceType<typeof CowMachine>) => ({
    size: SIZE,
    chunkSize: CHUNK,
    durability: 'power' as const,
    onError: 'break-write' as const,
    timeoutMs: 300,
    origin: { machine, file: 0 },
    store: { machine, file: STORE },
    tracker: { machine, file: 2 },
  });
  const { volume, live } = await openVolume(on(machine));
  const id = await snapshot(volume);
  const used = () => volume.activity().storeUsed;
  const empty = used();

  // Chunk 0: the write is refused, its copy lands and is synced all the same, and the slot is given back.
  machine.setFaults(STORE, { writeMs: 600 });
  t.equal(await codeOf(live.write(0, filled(512, 2))), 'ETIMEDOUT');
  machine.setFaults(STORE, {});
  const late = before.subarray(0, CHUNK);
  while (used() !== empty || machine.bytes(STORE).includes(late))
    await new Promise(resolve => setTimeout(resolve, 10));

  // Chunks 4 and 5 take that slot and another: written, not yet synced. Both say that what came before had landed.
  machine.setFaults(STORE, { syncMs: 60_000 });
  const stuck = codeOf(live.write(4 * CHUNK, filled(2 * CHUNK, 3)));
  const copies = [4, 5].map(chunk => before.subarray(chunk * CHUNK, (chunk + 1) * CHUNK));
  while (!copies.every(copy => machine.bytes(STORE).includes(copy)))
    await new Promise(resolve => setTimeout(resolve, 10));

  for (let seed = 1; seed <= CUTS; seed++) {
    const left = await openVolume({ ...on(machine.cut(seed)), create: false });
    const { found, volume } = left;
    const whole = (await readAll(volume.disk(id), SIZE).catch(String)).toString('latin1');
    const wrong = whole === before.toString('latin1') ? '' : `seed ${seed}: ${whole.slice(0, 200)}`;
    if (wrong !== '' || found.damaged !== 0 || found.broken !== '') {
      t.fail(`${wrong} ${JSON.stringify(found)}`);
      break;
    }
    volume.abandon();
  }
  volume.abandon();
  t.not(await stuck, '', 'nobody was told that it was written');
});
