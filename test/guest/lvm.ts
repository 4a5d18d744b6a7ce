/**
 * The provider `lvm` on a real volume group, `vg`. argv[2] is a folder for states, argv[3] the part: `thick` and `thin` are
 * what every provider promises, one moment under a writer, and a snapshot that nobody recorded; `full` is what becomes of a
 * snapshot, and of the origin, where there is no room left.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import { lvm } from '../../src/cow/provider-lvm.js';
import type { Volume } from '../../src/cow/volume.js';
import { codeOf, MiB, openVolumes } from '../cow/lab.js';
import { conformance } from '../cow/provider-conformance.js';
import { allTold, tests } from './tap.js';

const [, , folder = '', part = ''] = process.argv;
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

function thin(bytes: Buffer, pool = 'pool'): string {
  const name = `thin${++count}`;
  lvm2('lvcreate', '-y', '-V', `${bytes.length}b`, '-n', name, '--thinpool', `vg/${pool}`);
  return fill(`/dev/vg/${name}`, bytes);
}

if (part === 'thick') promises('thick', thick);
if (part === 'thin') {
  lvm2('lvcreate', '-y', '-L', '64M', '--type', 'thin-pool', '-n', 'pool', 'vg');
  promises('thin', thin);
}
if (part === 'full') full();
await allTold();

function promises(kind: string, make: (bytes: Buffer) => string): void {
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

function full(): void {
  const t = tests('full');
  t.test('a thick snapshot that holds no more is broken, and gives no byte', async t => {
    const { volumes, close } = await openVolumes(t, `${folder}/overflow`);
    const bytes = randomBytes(16 * MiB);
    const volume = await volumes.add({ name: 'v', origin: thick(bytes), durability: 'process' });
    volume.lvmSize = 2 * MiB;
    const { id } = (await volumes.snapshot(['v'], 'lvm', PATIENT))[0]!;
    t.match(volumes.snapshots()[0], { id, state: 'live' });
    const { live } = volume.opened();
    const after = randomBytes(8 * MiB);
    for (let at = 0; at < after.length; at += MiB) {
      await live.native.write(at, after.subarray(at, at + MiB));
    }
    await live.native.flush();
    after.copy(bytes);
    await volumes.refresh();
    t.match(volumes.snapshots()[0], { id, state: 'broken', why: /invalid/ });
    t.not(await codeOf(() => all(volume, id, bytes.length)), '', 'an error, never other bytes');
    t.ok((await readLive(volume, bytes.length)).equals(bytes), 'the origin has what was written');
    volume.lvmSize = undefined;
    const [next] = await volumes.snapshot(['v'], ['lvm', 'cow'], PATIENT);
    t.equal(next!.provider, 'lvm', 'the origin can have another');
    t.ok((await all(volume, next!.id, bytes.length)).equals(bytes));
    for (const one of volumes.snapshots()) await volumes.deleteSnapshot(one.id);
    t.equal(lvm2('lvs', '--noheadings').includes('asof-'), false, 'they are gone');
    await close();
  });

  t.test('a volume group that is full: the next provider takes it', async t => {
    const { volumes, close } = await openVolumes(t, `${folder}/group`);
    const bytes = randomBytes(2 * MiB);
    const volume = await volumes.add({ name: 'v', origin: thick(bytes), durability: 'process' });
    lvm2('lvcreate', '-y', '-l', '100%FREE', '-n', 'filler', 'vg');
    t.equal(await codeOf(() => volumes.snapshot(['v'], 'lvm', PATIENT)), 'SNAPSHOT_FAILED');
    t.same(volumes.snapshots(), [], 'and nothing is left of it');
    const [cow] = await volumes.snapshot(['v'], ['lvm', 'cow'], PATIENT);
    t.equal(cow!.provider, 'cow');
    t.match(volumes.show(cow!.id)[0]!.record!.providers, [
      { name: 'lvm', why: /nsufficient .*extents/ },
      { name: 'cow', why: '' },
    ]);
    await volume.opened().live.native.write(0, randomBytes(MiB));
    t.ok((await all(volume, cow!.id)).equals(bytes));
    lvm2('lvremove', '-y', 'vg/filler');
    const [lvm] = await volumes.snapshot(['v'], ['lvm', 'cow'], PATIENT);
    t.equal(lvm!.provider, 'lvm', 'and lvm2 again, when there is room');
    await close();
  });

  t.test('a thin pool that is full: the writer gets an error, the snapshot keeps its bytes', async t => {
    lvm2('lvcreate', '-y', '-L', '8M', '--type', 'thin-pool', '-n', 'small', 'vg');
    lvm2('lvchange', '--errorwhenfull', 'y', 'vg/small');
    const { volumes, close } = await openVolumes(t, `${folder}/pool`);
    const bytes = randomBytes(6 * MiB);
    const origin = thin(bytes, 'small');
    const volume = await volumes.add({ name: 'v', origin, durability: 'process' });
    const { id } = (await volumes.snapshot(['v'], 'lvm', PATIENT))[0]!;
    const { live } = volume.opened();
    const written = async () => {
      for (let at = 0; at < 4 * MiB; at += MiB) await live.native.write(at, randomBytes(MiB));
      await live.native.flush();
    };
    t.not(await codeOf(written), '', 'the pool has no room for 10 MiB');
    await volumes.refresh();
    t.match(volumes.snapshots()[0], { id, state: 'live' });
    t.ok((await all(volume, id, bytes.length)).equals(bytes));
    await volumes.deleteSnapshot(id);
    await live.native.write(0, bytes.subarray(0, MiB));
    await live.native.flush();
    t.ok((await readLive(volume, MiB)).equals(bytes.subarray(0, MiB)), 'its room is the origin’s again');
    await close();
  });
}

async function readLive(volume: Volume, size: number): Promise<Buffer> {
  const bytes = Buffer.alloc(size);
  await volume.opened().live.native.read(0, bytes);
  return bytes;
}

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
