/**
 * Power cuts: the daemon and its load run in a guest whose disks have volatile caches (volatile-disk.js). At a random write
 * or flush QEMU is killed, the caches lose a random part of what was not flushed, and a new guest starts on what is left. It
 * must find every acknowledged flush on the origin, and every snapshot exact (test/guest/power-cut-judge.ts).
 *
 * A life of the machine is one guest: it is judged on what it finds, then goes on until it is cut. Some are cut while they
 * are still starting. Several lives make a story, with one arrangement of origin and store. The first cut of a story is
 * sharp: the caches lose all they have, right after the flush that was to make sure of first writes into many chunks.
 *
 * Then three stories of that one cut, in which something is taken away from the snapshot on, which must be noticed: the
 * flushes of the origin's disk, those of the store's, and the policy `power`.
 */
import { once } from 'node:events';
import * as fs from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { inflateSync } from 'node:zlib';
import { ROOT } from '../build.js';
import { boot } from './machine.js';
import { makeExt4, makeSystem } from './system.js';
import { VolatileDisk } from './volatile-disk.js';

const { Judge } = await import(path.join(ROOT, 'dist/test/guest/power-cut-judge.js'));
const { SECTOR, stamped } = await import(path.join(ROOT, 'dist/test/guest/pattern.js'));

const MiB = 2 ** 20;
const SIZE = 8 * MiB;
/** Cuts of one story. */
const LIVES = 4;
/** Requests by which a cut may come later, so that it comes before a flush. */
const DELAY = 60;
/** Seconds for one life: emulation is slow, and the machine may be busy. */
const LIFE_SECONDS = 600;

/** Where the origin and the store lie: devices of the guest, or a file on the file system of the daemon's state. */
const LAYOUTS = [
  { name: 'origin and store on disks of their own', origin: '/dev/vdc', store: '/dev/vdd', chunk: 65536 },
  { name: 'all in one file system', origin: '/state/origin', store: '', chunk: 16384 },
  { name: 'origin on a disk, store beside the state', origin: '/dev/vdc', store: '', chunk: 4096 },
];

/** mulberry32 */
function randomOf(seed) {
  let state = seed | 0;
  return below => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** The three disks of a machine, as they are before its first life. */
function makeDisks(layout, scratch) {
  const first = stamped(1, 0, SIZE / SECTOR);
  const folder = fs.mkdtempSync(path.join(scratch, 'state-'));
  if (layout.origin === '/state/origin') fs.writeFileSync(path.join(folder, 'origin'), first);
  const image = path.join(scratch, 'state.ext4');
  makeExt4(image, '96M', folder);
  fs.rmSync(folder, { recursive: true });
  return {
    // A file system may ask that its blocks are whole: its own checksums know nothing of halves.
    state: new VolatileDisk(fs.readFileSync(image), 4096),
    origin: new VolatileDisk(first, SECTOR),
    store: new VolatileDisk(Buffer.alloc(96 * MiB), SECTOR),
  };
}

/**
 * One life, until it is cut. `found` is what it found, undefined where it was cut before; `failed` is why the guest gave up.
 * Throws where it has come to nothing.
 */
async function live({
  system,
  disks,
  judge,
  env,
  early,
  sharp,
  last,
  liar,
  requests,
  flushing,
  uring,
  verbose,
}) {
  const folder = fs.mkdtempSync(path.join(tmpdir(), 'asof-guest-'));
  const args = ['-device', 'virtio-serial-pci'];
  for (const [name, disk] of Object.entries(disks)) {
    const socket = path.join(folder, name);
    await disk.listen(socket);
    args.push('-blockdev', `driver=nbd,node-name=${name},server.type=unix,server.path=${socket}`);
    const shape = `physical_block_size=${disk.unit},discard=off,write-zeroes=off,write-cache=on`;
    args.push('-device', `virtio-blk-pci,drive=${name},serial=asof-${name},${shape}`);
  }
  const port = path.join(folder, 'report');
  args.push('-chardev', `socket,id=report,path=${port}`, '-device', 'virtserialport,chardev=report');

  const life = { found: undefined, failed: undefined, verdict: undefined, spent: 0 };
  let left = early ? requests : Number.POSITIVE_INFINITY;
  let guest;
  for (const disk of Object.values(disks)) {
    disk.gate = flush => {
      life.spent++;
      if (left-- > 0) return true;
      // Before a flush the most is at stake; a load that does not come to one is cut all the same.
      if (flushing && left > -DELAY && !(flush && disk.dirty)) return true;
      left = Number.NEGATIVE_INFINITY;
      guest.kill();
      return false;
    };
  }
  const start = Date.now();
  const seconds = () => Math.round((Date.now() - start) / 1000);
  const heard = line => {
    if (verbose && !/^[wWfFL] /.test(line)) console.log(`#   after ${seconds()} s: ${line.slice(0, 60)}`);
    if (line.startsWith('failed ')) {
      life.failed = line.slice(7);
      guest.kill();
    } else if (line.startsWith('found ')) {
      life.found = decode(JSON.parse(line.slice(6)));
      life.verdict = judge.judge(life.found);
      if (last || life.verdict.wrong.length > 0) guest.kill();
    } else if (line === 'load') {
      life.spent = 0;
      if (!early && !sharp) left = requests;
    } else if (line === 'armed') {
      if (liar) disks[liar].lies = true;
    } else if (line === 'cut') {
      left = Number.NEGATIVE_INFINITY;
      guest.kill();
    } else judge.hear(line);
  };
  let told;
  const server = createServer(socket => {
    socket.on('error', () => {});
    let rest = '';
    socket.setEncoding('latin1').on('data', piece => {
      const lines = (rest + piece).split('\n');
      rest = lines.pop(); // a line that was cut in two is none
      for (const line of lines) heard(line);
    });
    told = once(socket, 'close');
  });
  await new Promise(resolve => server.listen(port, resolve));
  const said = [];
  guest = boot({
    system,
    test: 'power-cut',
    env: { size: SIZE, ...env },
    memory: 512,
    kernelArgs: [`fuse.enable_uring=${uring ? 1 : 0}`],
    args,
    seconds: LIFE_SECONDS,
    line: text => {
      said.push(text);
      if (verbose) console.log(`#   ${text}`);
    },
  });
  const { whole, late } = await guest.ended;
  life.seconds = seconds();
  await told;
  server.close();
  for (const disk of Object.values(disks)) await disk.close();
  fs.rmSync(folder, { recursive: true, force: true });
  const shown = said.slice(-40).join('\n');
  if (late) throw new Error(`nothing came of it in ${LIFE_SECONDS} s:\n${shown}`);
  if (whole && !life.failed) throw new Error(`the guest ended by itself:\n${shown}`);
  return life;
}

const unpack = text => {
  const bytes = inflateSync(Buffer.from(text, 'base64'));
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
};
const decode = found => ({
  origin: unpack(found.origin),
  live: unpack(found.live),
  snapshots: found.snapshots.map(one => ({ ...one, stamps: unpack(one.stamps) })),
});

/** Lives until `cuts` are done, or something is wrong. */
async function story({ system, seed, layout, cuts, verbose, durability = 'power', liar }) {
  const random = randomOf(seed);
  const disks = makeDisks(layout, system.folder);
  const judge = new Judge(SIZE / SECTOR);
  const told = { cuts: 0, early: 0, exact: 0, invalid: 0, units: 0, lost: 0, wrong: [], said: judge.said };
  for (let each = 0; each <= cuts; each++) {
    const last = each === cuts;
    const sharp = each === 0;
    const early = !sharp && !last && random(4) === 0;
    const { origin, store, chunk } = layout;
    const life = await live({
      system,
      disks,
      judge,
      env: {
        ...{ seed: random(2 ** 31), origin, store, chunk, durability, stamp: (each + 1) * 1e6 },
        load: sharp ? 'sharp' : 'random',
      },
      ...{ early, sharp, last, liar },
      requests: 1 + random(early ? 80 : random(2) === 0 ? 100 : 800),
      flushing: random(3) > 0,
      uring: random(2) === 0,
      verbose,
    });
    if (life.failed) told.wrong.push(life.failed);
    told.exact += life.verdict?.exact ?? 0;
    told.invalid += life.verdict?.invalid ?? 0;
    told.wrong.push(...(life.verdict?.wrong ?? []));
    if (told.wrong.length > 0 || last) break;
    told.cuts++;
    if (!life.found) told.early++;
    // Sometimes all is lost, sometimes nothing, mostly a part.
    const share = sharp ? 0 : [0, 30, 60, 90, 100][random(5)];
    for (const disk of Object.values(disks)) {
      const { units, lost } = disk.cut(() => random(100) < share);
      told.units += units;
      told.lost += lost;
    }
    const when = sharp ? 'the flush' : life.found ? 'the load' : 'the start';
    console.log(`#   cut ${each + 1}, at request ${life.spent} of ${when}, after ${life.seconds} s`);
  }
  return told;
}

const numberOf = text => {
  if (/^\d+$/.test(text)) return Number(text);
  throw new Error(`${text} is no number`);
};

export async function test(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      cuts: { type: 'string', default: '24' },
      seed: { type: 'string', default: '1' },
      verbose: { type: 'boolean', default: false },
    },
  });
  const seed = numberOf(values.seed);
  const { verbose } = values;
  const system = makeSystem();
  let well = true;
  const result = (good, text) => {
    console.log(`${good ? 'ok' : 'not ok'} - ${text}`);
    well &&= good;
  };

  const all = { cuts: 0, early: 0, exact: 0, lost: 0 };
  for (let at = 0, left = numberOf(values.cuts); left > 0; at++, left -= LIVES) {
    const layout = LAYOUTS[(seed + at) % LAYOUTS.length];
    const cuts = Math.min(LIVES, left);
    const told = await story({ system, seed: seed * 1000 + at, layout, cuts, verbose });
    // Nothing happened that could have made one invalid.
    if (told.invalid > 0) told.wrong.push(`${told.invalid} snapshots say that they are invalid`);
    for (const why of told.wrong.slice(0, 10)) console.log(`# ${why}`);
    const { writes, flushes, snapshots } = told.said;
    result(
      told.wrong.length === 0 && told.exact > 0,
      `${layout.name}: ${told.cuts} cuts, ${told.early} of them at a start; ${writes} writes, ${flushes} flushes, ${snapshots} snapshots; ${told.lost} of ${told.units} cached units lost; ${told.exact} snapshots found exact`,
    );
    for (const name of Object.keys(all)) all[name] += told[name];
  }
  console.log(
    `# ${all.cuts} power cuts, ${all.early} of them at a start, ${all.exact} times a snapshot was exact`,
  );

  const [layout] = LAYOUTS;
  for (const liar of ['origin', 'store']) {
    const told = await story({ system, seed: seed * 1000 + 900, layout, cuts: 1, verbose, liar });
    result(
      told.wrong.length > 0 || told.invalid > 0,
      `it is noticed that the ${liar}'s disk ignores flushes: ${told.wrong[0] ?? `${told.invalid} invalid`}`,
    );
  }
  const told = await story({
    ...{ system, seed: seed * 1000 + 950, layout, cuts: 1, verbose },
    durability: 'process',
  });
  for (const why of told.wrong.slice(0, 10)) console.log(`# ${why}`);
  result(
    told.wrong.length === 0 && told.exact === 0 && told.invalid > 0,
    `with the policy process ${told.invalid} snapshots say that they are invalid, and flushes are there`,
  );
  return well;
}
