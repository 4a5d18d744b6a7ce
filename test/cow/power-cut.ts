/**
 * The plug is pulled: a model of volumes in use, of the machine that loses its power, and of what must be there
 * afterwards. engine-power-cut.test.ts runs it for some seconds, scripts/power-cut.js thousands of times.
 *
 * The oracle is in the sectors: each write stamps its 512-byte sectors with its own number, so that what a sector holds
 * after a cut says which write it came from. The seed chooses policies, stores and the number of volumes, what is done and
 * what is kept of the unsynced sectors; how far the threads got when it went dark is theirs.
 */
import { randomUUID } from 'node:crypto';
import type { CowDurability, CowFaults, NativeCowMachine, OnCowError } from '../../src/native.js';
import { CowMachine, CowVolume, codeOf, openVolume, randomOf } from './rig.js';

const SECTOR = 512;
const SIZE = 512 * 1024;
const SECTORS = SIZE / SECTOR;
const CHUNK = 16384;
const LIVES = 3;
/** Snapshots whose changes are asked for, deleted or not. */
const REMEMBERED = 6;

export interface Scenario {
  readonly volumes: number;
  readonly durability: CowDurability;
  readonly onError: OnCowError;
  readonly store: 'file' | 'memory';
  readonly timeoutMs: number;
  /** Bytes of the store; 0 is no limit. */
  readonly limit: number;
}

/** What a disk does wrong, of which the model must find out. */
export interface Sabotage {
  readonly file: 'origin' | 'store' | 'tracker';
  readonly faults: CowFaults;
}

export interface Outcome {
  readonly cuts: number;
  /** Snapshots compared byte for byte. */
  readonly compared: number;
  /** What a cut contradicts; '' where all is well. */
  readonly wrong: string;
}

export function scenarioOf(seed: number): Scenario {
  const random = randomOf(seed ^ 0x51ed270b);
  return {
    volumes: [1, 1, 2, 3][random(4)]!,
    durability: random(3) === 0 ? 'process' : 'power',
    onError: random(2) === 0 ? 'break-write' : 'break-snapshot',
    store: random(6) === 0 ? 'memory' : 'file',
    timeoutMs: random(3) === 0 ? 60_000 : 0,
    limit: random(4) === 0 ? 30 * CHUNK : 0,
  };
}

/** A snapshot and what its volume held. */
interface Point {
  readonly id: string;
  readonly epoch: number;
  readonly groupSize: number;
  readonly stamps: Uint32Array;
}

const FILES = ['origin', 'store', 'tracker'] as const;

class Wrong extends Error {}

class Protected {
  readonly #index: number;
  readonly #scenario: Scenario;
  readonly #persistent: boolean;
  volume!: Awaited<ReturnType<typeof openVolume>>['volume'];
  live!: Awaited<ReturnType<typeof openVolume>>['live'];
  /** For each sector the stamp that it has, and the one that the last flush made sure of. */
  readonly now = new Uint32Array(SECTORS);
  readonly flushed = new Uint32Array(SECTORS);
  points: Point[] = [];
  remembered: Point[] = [];
  readonly #deleted = new Set<string>();
  /** Those that were said to be broken. */
  readonly #broken = new Set<string>();
  #stamp = 0;

  constructor(index: number, scenario: Scenario) {
    this.#index = index;
    this.#scenario = scenario;
    this.#persistent = scenario.store === 'file' && scenario.durability === 'power';
  }

  async open(machine: NativeCowMachine, life: number): Promise<void> {
    const file = (name: (typeof FILES)[number]) => ({ machine, file: this.#index * 3 + FILES.indexOf(name) });
    const { durability, onError, store, timeoutMs, limit } = this.#scenario;
    const boot = String(life).padStart(12, '0');
    const opened = await openVolume({
      volume: `01234567-89ab-4cde-8f01-23456789ab0${this.#index}`,
      size: SIZE,
      chunkSize: CHUNK,
      regionSize: 65536,
      durability,
      onError,
      timeoutMs,
      limit,
      bootId: `11111111-2222-4333-8444-${boot}`,
      create: life === 0,
      origin: file('origin'),
      store: store === 'file' ? file('store') : null,
      tracker: file('tracker'),
    });
    ({ volume: this.volume, live: this.live } = opened);
    if (this.#persistent && opened.found.broken !== '') throw new Wrong(`all broken: ${opened.found.broken}`);
    if (this.#persistent && opened.found.tracking !== '')
      throw new Wrong(`tracking: ${opened.found.tracking}`);
  }

  /** `sure`: nobody else writes, and there is no cut: what is refused has not happened. */
  async write(offset: number, length: number, sure: boolean): Promise<void> {
    const stamp = ++this.#stamp;
    const bytes = new Uint32Array(length / 4).fill(stamp);
    const range = [offset / SECTOR, (offset + length) / SECTOR] as const;
    if (!sure) this.now.fill(stamp, ...range);
    const code = await codeOf(this.live.write(offset, new Uint8Array(bytes.buffer)));
    if (!sure) return;
    if (code === '') this.now.fill(stamp, ...range);
    else if (code !== 'ENOSPC' || this.#scenario.limit === 0 || this.#scenario.onError !== 'break-write')
      throw new Wrong(`a write was refused: ${code}`);
  }

  async flush(): Promise<void> {
    await this.live.flush();
    this.flushed.set(this.now);
  }

  taken(id: string, epoch: number, groupSize: number): void {
    const point = { id, epoch, groupSize, stamps: this.now.slice() };
    this.points.push(point);
    this.remembered = [...this.remembered, point].slice(-REMEMBERED);
    // Such a snapshot syncs the origin.
    const { durability, store } = this.#scenario;
    if (durability === 'power' || store === 'memory') this.flushed.set(this.now);
  }

  async delete(point: Point): Promise<void> {
    this.points = this.points.filter(one => one !== point);
    await this.volume.delete(point.id);
    this.#deleted.add(point.id);
  }

  /** Before the cut: who is broken says so from now on. */
  noteBroken(): void {
    for (const { id, state } of this.volume.snapshots()) if (state === 'broken') this.#broken.add(id);
  }

  /** After it. The number of snapshots that were compared. */
  async check(): Promise<number> {
    const held = await this.#checkOrigin();
    await this.#checkChanges(held);
    const compared = await this.#checkSnapshots();
    // The next life starts from what is there.
    this.now.set(held);
    await this.flush();
    const live = new Set(this.volume.snapshots().flatMap(one => (one.state === 'live' ? [one.id] : [])));
    this.points = this.points.filter(point => live.has(point.id));
    const kept = new Set(this.points.map(point => point.id));
    for (const { id } of this.volume.snapshots()) if (!kept.has(id)) await this.volume.delete(id);
    return compared;
  }

  async #checkOrigin(): Promise<Uint32Array> {
    const stamps = await sectors(this.live);
    for (let sector = 0; sector < SECTORS; sector++) {
      const stamp = stamps[sector]!;
      if (stamp < this.flushed[sector]! || stamp > this.now[sector]!)
        throw new Wrong(
          `sector ${sector} has stamp ${stamp}, flushed ${this.flushed[sector]}, written ${this.now[sector]}`,
        );
    }
    return stamps;
  }

  /** Nothing that differs from what it was at a snapshot may be missing, whatever became of that. */
  async #checkChanges(held: Uint32Array): Promise<void> {
    for (const { id, epoch, stamps } of this.remembered) {
      const { runs } = await this.volume.changes(epoch, 0);
      const told = new Uint8Array(SECTORS);
      for (let i = 0; i < runs.length; i += 2)
        told.fill(1, Math.floor(runs[i]! / SECTOR), Math.ceil((runs[i]! + runs[i + 1]!) / SECTOR));
      for (let sector = 0; sector < SECTORS; sector++) {
        if (held[sector] === stamps[sector] || told[sector] === 1) continue;
        throw new Wrong(`sector ${sector} was written since ${id} (epoch ${epoch}), and that is not told`);
      }
    }
  }

  async #checkSnapshots(): Promise<number> {
    const listed = new Map(this.volume.snapshots().map(one => [one.id, one]));
    let compared = 0;
    for (const id of this.#deleted) {
      const back = listed.get(id);
      if (back && (this.#persistent || back.state === 'live'))
        throw new Wrong(`deleted snapshot ${id} is back`);
    }
    for (const point of this.points) {
      const found = listed.get(point.id);
      if (!found) {
        // Policy `process`, and a store in memory, promise nothing after a power cut but to say so.
        if (this.#persistent) throw new Wrong(`snapshot ${point.id} is gone`);
        continue;
      }
      if (found.groupSize !== point.groupSize)
        throw new Wrong(`a group of ${found.groupSize}, not ${point.groupSize}`);
      if (found.state === 'broken') {
        if (this.#persistent && this.#scenario.onError === 'break-write')
          throw new Wrong(`snapshot ${point.id} is broken: ${found.why}`);
        continue;
      }
      if (this.#broken.has(point.id)) throw new Wrong(`broken snapshot ${point.id} is whole again`);
      const disk = this.volume.disk(point.id);
      const stamps = await sectors(disk).catch((error: unknown) => {
        throw new Wrong(`snapshot cannot be read: ${error} ${JSON.stringify(disk.defects())}`);
      });
      const at = stamps.findIndex((stamp, sector) => stamp !== point.stamps[sector]);
      if (at >= 0) throw new Wrong(`snapshot has ${stamps[at]} in sector ${at}, not ${point.stamps[at]}`);
      compared++;
    }
    return compared;
  }
}

/** The stamp of each sector. */
async function sectors(disk: {
  read(offset: number, into: Uint8Array): Promise<void>;
}): Promise<Uint32Array> {
  const bytes = new Uint8Array(SIZE);
  await disk.read(0, bytes);
  const words = new Uint32Array(bytes.buffer);
  const stamps = new Uint32Array(SECTORS);
  for (let sector = 0; sector < SECTORS; sector++) {
    const first = words[sector * 128]!;
    for (let at = 1; at < 128; at++)
      if (words[sector * 128 + at] !== first) throw new Wrong(`sector ${sector} is of two writes`);
    stamps[sector] = first;
  }
  return stamps;
}

/** Three lives of the same machine, each ended by a cut. */
export async function livesOf(
  seed: number,
  scenario: Scenario = scenarioOf(seed),
  sabotage?: Sabotage,
): Promise<Outcome> {
  const random = randomOf(seed);
  let machine: NativeCowMachine = new CowMachine(
    Array.from({ length: scenario.volumes }, () => [SIZE, 0, 0]).flat(),
  );
  const all = Array.from({ length: scenario.volumes }, (_, index) => new Protected(index, scenario));
  const any = <T>(list: readonly T[]): T => list[random(list.length)]!;
  const take = (volumes: readonly Protected[]) => {
    const requests = volumes.map(one => ({ volume: one.volume, id: randomUUID() }));
    const taking = CowVolume.snapshot(requests, randomUUID(), 10_000);
    return { requests, taking };
  };
  const openAll = async (life: number) => {
    for (const one of all) await one.open(machine, life);
    if (!sabotage) return;
    for (let i = 0; i < scenario.volumes; i++)
      machine.setFaults(i * 3 + FILES.indexOf(sabotage.file), sabotage.faults);
  };
  let cuts = 0;
  let compared = 0;
  try {
    await openAll(0);
    for (let life = 0; life < LIVES; life++) {
      for (let step = 5 + random(25); step > 0; step--) {
        const one = any(all);
        const what = random(100);
        if (what < 65) {
          const offset = random(SECTORS) * SECTOR;
          const length = Math.min(SIZE - offset, (1 + random(random(4) === 0 ? 100 : 10)) * SECTOR);
          await one.write(offset, length, true);
        } else if (what < 75) {
          await one.flush();
        } else if (what < 92) {
          const volumes = random(2) === 0 ? all : [one];
          const { requests, taking } = take(volumes);
          const { epochs } = await taking;
          volumes.forEach((each, i) => {
            each.taken(requests[i]!.id, epochs[i]!, volumes.length);
          });
        } else if (one.points.length > 0) {
          await one.delete(any(one.points));
        }
      }
      // Some writes, a snapshot and a delete are under way when it goes dark. They write apart from each other, so that
      // the order in which they end does not matter.
      for (const one of all) one.noteBroken();
      const underWay: Promise<unknown>[] = [];
      const piece = SIZE / 8;
      for (const one of all) {
        for (let at = random(3); at < 8; at += 1 + random(4)) {
          const offset = at * piece + random(piece / SECTOR / 2) * SECTOR;
          underWay.push(one.write(offset, (1 + random(40)) * SECTOR, false));
        }
        if (one.points.length > 1 && random(3) === 0) underWay.push(codeOf(forget(one, one.points[0]!)));
      }
      if (random(2) === 0) underWay.push(codeOf(take(all).taking));
      for (let i = random(6); i > 0; i--) await new Promise(resolve => setImmediate(resolve));
      machine = machine.cut(seed * 16 + life);
      cuts++;
      await Promise.all(underWay);
      for (const one of all) one.volume.abandon();
      await openAll(life + 1);
      for (const one of all) compared += await one.check();
    }
    for (const one of all) one.volume.abandon();
    return { cuts, compared, wrong: '' };
  } catch (error) {
    for (const one of all) one.volume?.abandon();
    // What a sabotaged disk says is found out as well.
    if (error instanceof Wrong || sabotage) return { cuts, compared, wrong: String(error) };
    throw error;
  }
}

/** A deletion that the cut may meet: the snapshot is there or not. */
async function forget(one: Protected, point: Point): Promise<void> {
  one.points = one.points.filter(each => each !== point);
  await one.volume.delete(point.id);
}
