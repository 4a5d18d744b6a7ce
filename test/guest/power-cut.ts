/**
 * Runs in the guest of scripts/guest/power-cut.js, until it is killed: starts the daemon, tells the host what it finds, then
 * writes through the live device, flushes, takes snapshots and deletes them, and tells of each before and after.
 *
 * The report is lines on the port argv[2]. Its writes return when the host's end has them, so that what was acknowledged here
 * and told is known there, whatever happens next:
 *   found JSON · load · armed · cut · w STAMP SECTOR COUNT · W STAMP · L STAMP · f N · F N · s · S ID · d ID · D ID
 * Small letters stand before what they tell of, capitals behind it; L tells that the write is on stable storage by itself.
 *
 * With load=sharp it does one thing instead: a snapshot (armed), a write into every other chunk, an acknowledged flush (cut).
 * Whoever has lost a single flush since the snapshot cannot hide it then.
 */
import { spawn } from 'node:child_process';
import { closeSync, constants, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import { SECTOR, stamped, stampsOf, UNREADABLE } from './pattern.js';

const PORT = openSync(process.argv[2]!, 'w');
const env = (name: string) => process.env[name] ?? '';
const SIZE = Number(env('size'));
const STATE = '/state/asof';
const MOUNT = '/m/asof';
const SNAPSHOTS = 3;
const WRITERS = 3;

function say(line: string): void {
  const bytes = Buffer.from(`${line}\n`);
  for (let done = 0; done < bytes.length; ) done += writeSync(PORT, bytes, done);
}

/** mulberry32 */
let state = Number(env('seed')) | 0;
function random(below: number): number {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % below;
}

interface Snapshot {
  readonly id: string;
  readonly state: string;
  readonly why: string;
  readonly moment: string;
}

function ask<T>(method: string, path: string, body?: object): Promise<T> {
  return new Promise((resolve, reject) => {
    const headers = body ? { 'content-type': 'application/json' } : {};
    const asked = request(
      { socketPath: join(STATE, 'asof.sock'), method, path: `/v1${path}`, headers },
      answer => {
        let text = '';
        answer.setEncoding('utf8').on('data', piece => {
          text += piece;
        });
        answer.on('end', () => {
          if ((answer.statusCode ?? 500) < 400) resolve(JSON.parse(text) as T);
          else reject(new Error(`${method} ${path}: ${text}`));
        });
      },
    );
    asked.on('error', reject);
    asked.end(body && JSON.stringify(body));
  });
}

/** The stamps of a disk, as text for the report. */
function read(path: string): string {
  const stamps = new Uint32Array(SIZE / SECTOR).fill(UNREADABLE);
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    const piece = Buffer.alloc(65536);
    for (let at = 0; at < SIZE; at += piece.length) {
      try {
        const n = readSync(fd, piece, 0, piece.length, at);
        stamps.set(stampsOf(piece.subarray(0, n), at / SECTOR), at / SECTOR);
      } catch {
        // These sectors stay unreadable.
      }
    }
  } catch {
    // So do all.
  }
  if (fd !== undefined) closeSync(fd);
  return deflateSync(Buffer.from(stamps.buffer), { level: 1 }).toString('base64');
}

async function serve(): Promise<void> {
  const child = spawn(
    '/usr/bin/node',
    ['/asof/bin/asof', 'serve', '--state', STATE, '--mount', MOUNT, '--log-level', 'warn'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', () => resolve());
    child.on('exit', code => reject(new Error(`asof serve ended with ${code}`)));
  });
}

async function tellWhatIsThere(): Promise<void> {
  const origin = read(env('origin'));
  await serve();
  const volumes = await ask<{ name: string; state: string; why: string }[]>('GET', '/volumes');
  if (volumes.length === 0) {
    await ask('POST', '/volumes', {
      name: 'disk',
      origin: env('origin'),
      durability: env('durability'),
      chunkSize: Number(env('chunk')),
      ...(env('store') === '' ? {} : { store: env('store') }),
    });
  } else if (volumes[0]!.state !== 'open') {
    throw new Error(`the volume is ${volumes[0]!.state}: ${volumes[0]!.why}`);
  }
  const snapshots = [];
  for (const one of await ask<Snapshot[]>('GET', '/snapshots')) {
    const { extents } = await ask<{ extents: { start: number; length: number }[] }>(
      'GET',
      `/volumes/disk/changes?since=${one.id}`,
    );
    snapshots.push({
      ...one,
      stamps: read(join(MOUNT, 'volumes/disk', one.moment, 'disk')),
      changed: extents.flatMap(({ start, length }) => [start, length]),
    });
  }
  say(`found ${JSON.stringify({ origin, live: read(join(MOUNT, 'volumes/disk/live')), snapshots })}`);
}

/** The live device, and what the report says of each write, flush and snapshot. */
async function openLive() {
  const path = join(MOUNT, 'volumes/disk/live');
  const plain = await open(path, constants.O_RDWR);
  const synced = await open(path, constants.O_RDWR | constants.O_DSYNC);
  if (fstatSync(plain.fd).size !== SIZE) throw new Error(`${path} has ${fstatSync(plain.fd).size} bytes`);
  let stamp = Number(env('stamp'));
  let flushes = 0;
  return {
    async write(first: number, count: number, lasting = false) {
      const mine = ++stamp;
      const bytes = stamped(mine, first, count);
      say(`w ${mine} ${first} ${count}`);
      const { bytesWritten } = await (lasting ? synced : plain).write(bytes, 0, bytes.length, first * SECTOR);
      if (bytesWritten !== bytes.length) throw new Error(`${bytesWritten} bytes of ${bytes.length} written`);
      say(`W ${mine}`);
      if (lasting) say(`L ${mine}`);
    },
    async flush() {
      const n = ++flushes;
      say(`f ${n}`);
      await plain.datasync();
      say(`F ${n}`);
    },
    async snapshot() {
      say('s');
      const [one] = await ask<Snapshot[]>('POST', '/snapshots', { volumes: ['disk'] });
      say(`S ${one!.id}`);
      return one!.id;
    },
  };
}

async function sharp(): Promise<void> {
  const live = await openLive();
  say('load');
  await live.write(0, 64);
  await live.snapshot();
  say('armed');
  const chunk = Number(env('chunk')) / SECTOR;
  const chunks = Array.from({ length: 48 }, (_, i) => i * 2);
  await Promise.all(
    Array.from({ length: WRITERS }, async () => {
      for (let at = chunks.pop(); at !== undefined; at = chunks.pop()) await live.write(at * chunk + 1, 3);
    }),
  );
  await live.flush();
  say('cut');
  await new Promise(() => {});
}

async function load(): Promise<void> {
  const live = await openLive();
  const busy: { readonly first: number; readonly end: number }[] = [];
  const sectors = SIZE / SECTOR;

  const writer = async () => {
    for (;;) {
      if (random(12) === 0) {
        await live.flush();
        continue;
      }
      // Some places are met again and again.
      const near = random(3) === 0 ? sectors : Math.floor(sectors / 16);
      const count = 1 + random(random(4) === 0 ? 300 : 24);
      const first = Math.min(random(near), sectors - count);
      const place = { first, end: first + count };
      if (busy.some(one => one.first < place.end && first < one.end)) continue;
      busy.push(place);
      await live.write(first, count, random(16) === 0);
      busy.splice(busy.indexOf(place), 1);
    }
  };

  const snapshots = async () => {
    const taken = (await ask<Snapshot[]>('GET', '/snapshots')).map(({ id }) => id);
    for (;;) {
      if (taken.length >= SNAPSHOTS) {
        const [gone] = taken.splice(random(taken.length), 1);
        say(`d ${gone}`);
        await ask('DELETE', `/snapshots/${gone}`);
        say(`D ${gone}`);
      }
      taken.push(await live.snapshot());
      await new Promise(resolve => setTimeout(resolve, random(400)));
    }
  };

  say('load');
  await Promise.all([snapshots(), ...Array.from({ length: WRITERS }, writer)]);
}

try {
  await tellWhatIsThere();
  await (env('load') === 'sharp' ? sharp() : load());
} catch (error) {
  say(`failed ${(error as Error).message.replaceAll('\n', ' ')}`);
  process.exit(1);
}
