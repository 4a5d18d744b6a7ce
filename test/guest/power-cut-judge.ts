/**
 * What a guest said that it did, and whether what is found after its power cut can be reconciled with it. The oracle of
 * scripts/guest/power-cut.js: it knows of writes, flushes and snapshots, and of nothing of ours.
 *
 * Writes to one sector never overlap in time, so that a sector's writes have an order. A sector may hold its last write that
 * was made sure of, or any later one; a snapshot's sector the last write that had ended when the snapshot began, or any later
 * one that had begun when it was acknowledged, and for ever the one that was seen first.
 */
import { DAMAGED, MISPLACED, UNREADABLE } from './pattern.js';

interface Write {
  readonly stamp: number;
  readonly begun: number;
  ended: number;
  /** It was acknowledged as being on stable storage, by itself. */
  lasting: boolean;
}

interface Moment {
  id: string;
  readonly begun: number;
  acknowledged: number;
  deletion: 'none' | 'begun' | 'acknowledged';
  /** What it held when it was first read after a cut. */
  seen: Uint32Array | undefined;
}

/** What a guest found when it had started. */
export interface Found {
  readonly origin: Uint32Array;
  readonly live: Uint32Array;
  readonly snapshots: readonly {
    readonly id: string;
    readonly state: string;
    readonly why: string;
    readonly stamps: Uint32Array;
    /** Of /changes since it: start and length in bytes alternate. */
    readonly changed: readonly number[];
  }[];
}

export interface Verdict {
  readonly wrong: readonly string[];
  readonly exact: number;
  readonly invalid: number;
}

const NAMES = new Map([
  [DAMAGED, 'damaged bytes'],
  [MISPLACED, "another sector's bytes"],
  [UNREADABLE, 'an I/O error'],
]);
const nameOf = (stamp: number) => NAMES.get(stamp) ?? `write ${stamp}`;

export class Judge {
  readonly #sectors: Write[][];
  readonly #writes = new Map<number, { readonly writes: Write[] }>();
  #moments: Moment[] = [];
  readonly #flushes = new Map<number, number>();
  /** Whatever ended before it was made sure of. */
  #sure = 0;
  #time = 0;
  readonly said = { writes: 0, flushes: 0, snapshots: 0, deletions: 0 };

  /** Each sector holds the stamp 1 at first. */
  constructor(sectors: number) {
    this.#sectors = Array.from({ length: sectors }, () => [firstWrite(1)]);
  }

  /** One line of the guest's report. */
  hear(line: string): void {
    this.#time++;
    const [what, ...rest] = line.split(' ');
    const [first, second, third] = rest.map(Number);
    switch (what) {
      case 'w': {
        const writes: Write[] = [];
        for (let sector = second!; sector < second! + third!; sector++) {
          const write = {
            stamp: first!,
            begun: this.#time,
            ended: Number.POSITIVE_INFINITY,
            lasting: false,
          };
          this.#sectors[sector]!.push(write);
          writes.push(write);
        }
        this.#writes.set(first!, { writes });
        break;
      }
      case 'W':
        for (const write of this.#writes.get(first!)!.writes) write.ended = this.#time;
        this.said.writes++;
        break;
      case 'L':
        for (const write of this.#writes.get(first!)!.writes) write.lasting = true;
        break;
      case 'f':
        this.#flushes.set(first!, this.#time);
        break;
      case 'F':
        this.#sure = Math.max(this.#sure, this.#flushes.get(first!)!);
        this.said.flushes++;
        break;
      case 's':
        this.#moments.push({
          id: '',
          begun: this.#time,
          acknowledged: Number.POSITIVE_INFINITY,
          deletion: 'none',
          seen: undefined,
        });
        break;
      case 'S': {
        const moment = this.#moments.find(one => one.id === '')!;
        moment.id = rest[0]!;
        moment.acknowledged = this.#time;
        this.#sure = Math.max(this.#sure, moment.begun);
        this.said.snapshots++;
        break;
      }
      case 'd':
      case 'D':
        for (const one of this.#moments) {
          if (one.id === rest[0]) one.deletion = what === 'd' ? 'begun' : 'acknowledged';
        }
        if (what === 'D') this.said.deletions++;
        break;
      default:
        throw new Error(`the guest said: ${line}`);
    }
  }

  /** Compares, and takes what was found for what is there from now on. */
  judge(found: Found): Verdict {
    const wrong: string[] = [];
    this.#sectors.forEach((writes, sector) => {
      const sure = writes.findLastIndex(write => write.lasting || write.ended <= this.#sure);
      const allowed = writes.slice(sure).map(write => write.stamp);
      const held = found.origin[sector]!;
      if (!allowed.includes(held)) wrong.push(misfit('the origin', sector, held, allowed));
      if (found.live[sector] !== held)
        wrong.push(misfit('the live device', sector, found.live[sector]!, [held]));
    });
    let exact = 0;
    let invalid = 0;
    const moments: Moment[] = [];
    const pending = this.#moments.find(one => one.id === '');
    for (const snapshot of found.snapshots) {
      const moment = this.#moments.find(one => one.id === snapshot.id) ?? pending;
      const name = `the snapshot ${snapshot.id}`;
      if (!moment || moment.deletion === 'acknowledged') {
        wrong.push(`${name} is listed, and ${moment ? 'was deleted' : 'nobody took it'}`);
        continue;
      }
      moment.id = snapshot.id;
      if (snapshot.state !== 'live') {
        invalid++;
        // What says that it is invalid must not read as if it were not.
        const read = snapshot.stamps.findIndex(stamp => stamp !== UNREADABLE);
        if (read >= 0 && snapshot.state === 'broken')
          wrong.push(`${name} is broken, and sector ${read} reads`);
        moments.push(moment);
        continue;
      }
      const before = wrong.length;
      snapshot.stamps.forEach((held, sector) => {
        const allowed = moment.seen
          ? [moment.seen[sector]!]
          : momentOf(this.#sectors[sector]!, moment.begun, moment.acknowledged);
        if (!allowed.includes(held)) wrong.push(misfit(name, sector, held, allowed));
        if (held !== found.live[sector] && !covers(snapshot.changed, sector))
          wrong.push(`sector ${sector} changed since ${name}, and is not among the changes`);
      });
      if (wrong.length === before) exact++;
      moments.push({ ...moment, seen: snapshot.stamps });
    }
    for (const moment of this.#moments) {
      const acknowledged = moment.acknowledged !== Number.POSITIVE_INFINITY;
      const listed = found.snapshots.some(one => one.id === moment.id);
      if (acknowledged && moment.deletion === 'none' && !listed)
        wrong.push(`the snapshot ${moment.id} was acknowledged, and is gone`);
    }
    this.#restart(found, moments);
    return { wrong, exact, invalid };
  }

  #restart(found: Found, moments: Moment[]): void {
    this.#moments = moments.map(one => ({ ...one, deletion: 'none' }));
    this.#writes.clear();
    this.#flushes.clear();
    this.#time = 0;
    this.#sure = 0;
    found.live.forEach((stamp, sector) => {
      this.#sectors[sector] = [firstWrite(stamp)];
    });
  }
}

const firstWrite = (stamp: number): Write => ({ stamp, begun: 0, ended: 0, lasting: true });

/** What a sector may hold of a snapshot that was asked for at `begun`, and was there at `acknowledged`. */
function momentOf(writes: readonly Write[], begun: number, acknowledged: number): number[] {
  const last = writes.findLastIndex(write => write.ended <= begun);
  return writes.filter((write, i) => i >= last && write.begun < acknowledged).map(write => write.stamp);
}

function covers(runs: readonly number[], sector: number): boolean {
  const at = sector * 512;
  for (let i = 0; i < runs.length; i += 2) {
    if (at >= runs[i]! && at < runs[i]! + runs[i + 1]!) return true;
  }
  return false;
}

function misfit(where: string, sector: number, held: number, allowed: readonly number[]): string {
  return `${where}: sector ${sector} holds ${nameOf(held)}; allowed: ${allowed.map(nameOf).join(', ')}`;
}
