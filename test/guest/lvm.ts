/**
 * The provider `lvm` on a real volume group, `vg`, thick and thin: what every provider promises; a snapshot that overflows; one
 * that nobody recorded; one moment under a writer. argv[2] is a folder for states.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import { lvm } from '../../src/cow/provider-lvm.js';
import type { Volume } from '../../src/cow/volume.js';
import { codeOf, MiB, openVolumes } from '../cow/lab.js';
import { conformance } from '../cow/provider-conformance.js';
import { allTold, tests } from './tap.js';

const folder = process.argv[2] ?? '';
const lvm2 = (program: string, ...args: string[]) =>
  execFileSync(program, ['-q', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
/** Emulation is slow, and the machine may be busy. */
const PATIENT = { holdMs: 900_000 };
let count = 0;

function fill(device: string, bytes: Buffer): string {
  const fd = openSync(device, 'r+');
  try {
    writeSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
  return device;
}

function thick(bytes: Buffer): string {
  const name = `thick${++count}`;
  lvm2('lvcreate', '-y', '-L', `${bytes.length}b`, '-n', name, 'vg');
  return fill(`/dev/vg/${name}`, bytes);
}

function thin(bytes: Buffer): string {
  const name = `thin${++count}`;
  lvm2('lvcreate', '-y', '-V', `${bytes.length}b`, '-n', name, '--thinpool', 'vg/pool');
  return fill(`/dev/vg/${name}`, bytes);
}

lvm2('lvcreate', '-y', '-L', '64M', '--type', 'thin-pool', '-n', 'pool', 'vg');
for (const [kind, make] of Object.entries({ thick, thin })) {
  const t = tests(kind);
  conformance(t, lvm, `${folder}/${kind}`, (_, bytes) => make(bytes), PATIENT);

  t.test('of a writer it has all before a write, and nothing after it', async t => {
    const { volumes, close } = await openVolumes(t, `${folder}/${kind}-moment`);
    const slots = 256;
    const volume = await volumes.add({
      name: 'v',
      origin: make(Buffer.alloc(2 * MiB)),
      durability: 'process',
    });
    const live = volume.opened().live.native;
    let on = true;
    let number = 0;
    const writer = (async () => {
      const bytes = Buffer.alloc(4096);
      while (on) {
        number++;
        bytes.writeUInt32LE(number);
        await live.write((number % slots) * 8192, bytes);
      }
    })();
    const taken: { id: string; least: number }[] = [];
    for (let i = 0; i < 3; i++) {
      const least = number;
      taken.push({ id: (await volumes.snapshot(['v'], 'lvm', PATIENT))[0]!.id, least });
    }
    on = false;
    await writer;
    for (const { id, least } of taken) {
      const bytes = await all(volume, id);
      const numbers = Array.from({ length: slots }, (_, slot) => bytes.readUInt32LE(slot * 8192));
      const newest = Math.max(...numbers);
      const wanted = numbers.map((_, slot) =>
        Math.max(0, newest - ((((newest - slot) % slots) + slots) % slots)),
      );
      t.same(
        numbers,
        wanted.map(one => (one < 1 ? 0 : one)),
        `${newest} writes, and each of them`,
      );
      t.ok(newest >= least, 'those that were there before');
    }
    await close();
  });

  t.test('one that nobody recorded is found by its tags', async t => {
    const place = `${folder}/${kind}-found`;
    const { volumes, close } = await openVolumes(t, place);
    const bytes = randomBytes(2 * MiB);
    const volume = await volumes.add({ name: 'v', origin: make(bytes), durability: 'process' });
    const id = randomUUID();
    const { time } = await lvm.take([{ volume: volume.opened(), id }], id, PATIENT.holdMs);
    const name = `vg/asof-${id}`;
    if (kind === 'thin') lvm2('lvchange', '-an', name); // as a restart of the machine may leave it
    await close();
    const again = await openVolumes(t, place);
    t.match(again.volumes.snapshots()[0], { id, provider: 'lvm', time, state: 'live' });
    const opened = again.volumes.get('v');
    t.ok((await all(opened, id)).equals(bytes));
    t.equal(await writable(`/dev/${name}`), false, 'it is read-only');
    // Behind our back it goes.
    opened.disk(id).close();
    lvm2('lvremove', '-y', name);
    await again.volumes.refresh();
    t.match(again.volumes.snapshots()[0], { state: 'broken', why: /no logical volume/ });
    await again.volumes.deleteSnapshot(id);
    await again.close();
  });
}

const t = tests('overflow');
t.test('a thick snapshot that holds no more is broken, and gives no byte', async t => {
  const { volumes, close } = await openVolumes(t, `${folder}/overflow`);
  const bytes = randomBytes(16 * MiB);
  const volume = await volumes.add({ name: 'v', origin: thick(bytes), durability: 'process' });
  volume.lvmSize = 2 * MiB;
  const { id } = (await volumes.snapshot(['v'], 'lvm', PATIENT))[0]!;
  t.match(volumes.snapshots()[0], { id, state: 'live' });
  const { live } = volume.opened();
  for (let at = 0; at < 8 * MiB; at += MiB) await live.native.write(at, randomBytes(MiB));
  await live.native.flush();
  await volumes.refresh();
  t.match(volumes.snapshots()[0], { id, state: 'broken', why: /invalid/ });
  t.not(await codeOf(() => all(volume, id, 16 * MiB)), '', 'an error, never other bytes');
  const [next] = await volumes.snapshot(['v'], ['lvm', 'cow'], PATIENT);
  t.equal(next!.provider, 'lvm', 'the origin goes on, and can have another');
  for (const one of volumes.snapshots()) await volumes.deleteSnapshot(one.id);
  t.equal(lvm2('lvs', '--noheadings').includes(id), false, 'it is gone');
  volume.lvmSize = 2 ** 40;
  const [cow] = await volumes.snapshot(['v'], ['lvm', 'cow'], PATIENT);
  t.equal(cow!.provider, 'cow', 'a volume group that is full');
  t.match(volumes.show(cow!.id)[0]!.record!.providers, [
    { name: 'lvm', why: /lvcreate/ },
    { name: 'cow', why: '' },
  ]);
  await close();
});
await allTold();

async function all(volume: Volume, id: string, size = 2 * MiB): Promise<Buffer> {
  const bytes = Buffer.alloc(size);
  await volume.disk(id).native.read(0, bytes);
  return bytes;
}

async function writable(path: string): Promise<boolean> {
  try {
    // Opening succeeds either way.
    fill(path, randomBytes(512));
    return true;
  } catch {
    return false;
  }
}
