/**
 * A long life of a history, in random steps that a seed repeats: writes, backups of all kinds, kills, lost tracking, writes
 * past the daemon, restores, prunings, resizes. The model is plain bytes that the test keeps: those of the volume, and a copy
 * of them for each point. What a point holds is asked in three ways that do not share a reader.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { backupVolumes } from '../../src/cli/backup-volume.js';
import { Client } from '../../src/cli/client.js';
import { AsofError } from '../../src/errors.js';
import { type BackupOptions, backup, consolidate, History } from '../../src/histories.js';
import { openPoint, restore } from '../../src/restore.js';
import { ASOF, asof, eventually } from '../cli/asof.js';
import { randomOf } from '../cow/rig.js';
import { OPTIONS } from '../image/history-lab.js';
import { noise, qemuCheck, qemuImg } from '../image/peer.js';
import { attempt, run } from '../peers.js';
import { Daemon, end } from './protected.js';
import { isInterrupted, progress } from './soak.js';

const KIB = 1024;

/** What a point holds. */
interface Known {
  readonly bytes: Buffer;
  readonly step: string;
}

interface VolumeFacts {
  readonly id: string;
  readonly name: string;
  readonly state: string;
}

export class Life {
  readonly #folder: string;
  readonly #origin: string;
  readonly #daemon: Daemon;
  readonly #client: Client;
  readonly #random: (n: number) => number;
  readonly #title: string;
  #history: string;
  #model: Buffer;
  #volume = 'disk';
  #live = '';
  #fd = -1;
  /** All points that must be there, by id. */
  readonly #points = new Map<string, Known>();
  /** Points that may be there or not: somebody was killed while he took them away. */
  readonly #leaving = new Map<string, Known>();
  #step = 0;
  readonly #done = new Map<string, number>();

  private constructor(folder: string, daemon: Daemon, seed: number, model: Buffer) {
    this.#folder = folder;
    this.#history = join(folder, 'history');
    this.#origin = join(folder, 'origin');
    this.#daemon = daemon;
    this.#client = new Client({ state: daemon.state });
    this.#random = randomOf(seed);
    this.#model = model;
    this.#title = `seed ${seed}`;
  }

  static async begin(t: Test, folder: string, seed: number): Promise<Life> {
    const size = (16 + (seed % 23)) * 64 * KIB + (seed % 3) * 512;
    const daemon = await Daemon.start(t, folder);
    const life = new Life(folder, daemon, seed, Buffer.alloc(size));
    writeFileSync(life.#origin, life.#model);
    t.teardown(() => life.#closeLive()); // before the daemon goes
    await life.#add();
    return life;
  }

  async #add(): Promise<void> {
    const chunk = String(this.#one([4096, 65536, 65536]));
    const durability = this.#one(['process', 'power']);
    this.#live = await this.#daemon.protect(
      this.#volume,
      this.#origin,
      '--chunk',
      chunk,
      '--durability',
      durability,
    );
    this.#openLive();
  }

  #one<T>(of: readonly T[]): T {
    return of[this.#random(of.length)]!;
  }

  #openLive(): void {
    this.#fd = openSync(this.#live, 'r+');
  }

  #closeLive(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  async steps(count: number): Promise<void> {
    const weights: Record<string, number> = {
      write: 30,
      punch: 4,
      backup: 22,
      killedBackup: 3,
      killedDaemon: 2,
      daemonKilledInBackup: 2,
      restart: 1,
      foreign: 2,
      lost: 2,
      restoreLive: 2,
      restoreOrigin: 1,
      prune: 3,
      dropOne: 3,
      killedPrune: 3,
      byPath: 1,
      grown: 1,
      shrunk: 1,
      added: 1,
      busy: 1,
      stopped: 2,
      verified: 1,
      look: 3,
    };
    const names = Object.entries(weights).flatMap(([name, weight]) => new Array<string>(weight).fill(name));
    // Each kind of step comes early, in an order of its own, so that a short life has all of them.
    const first = Object.keys(weights).filter(name => name !== 'write' && name !== 'backup');
    for (let i = first.length - 1; i > 0; i--) {
      const j = this.#random(i + 1);
      [first[i], first[j]] = [first[j]!, first[i]!];
    }
    await this.#run('backup');
    for (let i = 1; i < count && !isInterrupted(); i++) {
      // Every second is one of these until all had their turn.
      await this.#run(i % 2 === 0 && first.length > 0 ? first.pop()! : this.#one(names));
    }
  }

  async #run(name: string): Promise<void> {
    this.#step++;
    this.#done.set(name, (this.#done.get(name) ?? 0) + 1);
    const steps: Record<string, () => Promise<void>> = {
      write: async () => this.#write(),
      backup: () => this.#backup(),
      killedBackup: () => this.#killedBackup(),
      killedDaemon: () => this.#restarted('SIGKILL'),
      daemonKilledInBackup: () => this.#daemonKilledInBackup(),
      restart: () => this.#restarted('SIGTERM'),
      foreign: () => this.#restarted('SIGTERM', () => this.#foreign()),
      lost: () => this.#restarted('SIGTERM', () => this.#loseTracking()),
      restoreLive: () => this.#restoreTo(this.#live),
      restoreOrigin: () => this.#restarted('SIGTERM', () => this.#restoreTo(this.#origin)),
      prune: () => this.#prune(),
      dropOne: () => this.#dropOne(),
      killedPrune: () => this.#killedPrune(),
      byPath: () => this.#restarted('SIGTERM', () => this.#byPath()),
      grown: () => this.#restarted('SIGTERM', async () => truncateSync(this.#origin, this.#length() + 65536)),
      shrunk: () => this.#shrunk(),
      added: () => this.#addedAgain(),
      punch: () => this.#punch(),
      busy: () => this.#busy(),
      stopped: () => this.#stopped(),
      verified: () => this.#verified(),
      look: () => this.#look(),
    };
    const began = Date.now();
    try {
      await steps[name]!();
      this.#list();
    } catch (error) {
      throw new Error(`${this.#title}, step ${this.#step}, ${name}: ${(error as Error).message}`, {
        cause: error,
      });
    }
    progress(`${this.#step} ${name}: ${this.#points.size} points, ${Date.now() - began} ms`);
  }

  #length(): number {
    return statSync(this.#origin).size;
  }

  // ── what is written ──

  /** A run, and what it holds from now on: noise, text that packs, zeros. */
  #piece(): { at: number; bytes: Buffer } {
    const size = this.#model.length;
    const sectors = this.#random(2) === 0;
    const unit = sectors ? 512 : 1;
    const whole = Math.floor(size / unit);
    const at = this.#random(whole) * unit;
    const most = this.#one([1, 512, 4096, 65536, 200_000]);
    const length = Math.min(unit * Math.ceil((1 + this.#random(most)) / unit), size - at);
    const stamp = this.#step * 31 + this.#random(1000);
    const kind = this.#random(4);
    if (kind === 0) return { at, bytes: Buffer.alloc(length) };
    if (kind === 1) return { at, bytes: Buffer.alloc(length, `step ${this.#step} ${stamp} `) };
    const bytes = noise(stamp % 256, length);
    bytes.write(String(stamp));
    return { at, bytes };
  }

  #write(): void {
    for (let n = 1 + this.#random(8); n > 0; n--) {
      const { at, bytes } = this.#piece();
      this.#put(this.#fd, at, bytes);
    }
  }

  /** Discards through the live file: holes, also in the origin. */
  async #punch(): Promise<void> {
    for (let n = 1 + this.#random(3); n > 0; n--) {
      const { at, bytes } = this.#piece();
      await run('fallocate', ['-p', '-o', String(at), '-l', String(bytes.length), this.#live]);
      this.#model.fill(0, at, at + bytes.length);
    }
  }

  #put(fd: number, at: number, bytes: Buffer): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(fd, bytes, done, bytes.length - done, at + done);
    }
    bytes.copy(this.#model, at);
  }

  async #foreign(): Promise<void> {
    const fd = openSync(this.#origin, 'r+');
    for (let n = 1 + this.#random(3); n > 0; n--) {
      const { at, bytes } = this.#piece();
      this.#put(fd, at, bytes);
    }
    closeSync(fd);
  }

  // ── backups ──

  #options(): Partial<BackupOptions> {
    const kind = this.#one([undefined, undefined, 'incremental', 'differential', 'full'] as const);
    const ids = this.#ofVolume();
    const base = kind !== 'full' && this.#random(4) === 0 && ids.length > 0 ? this.#one(ids) : undefined;
    const method = this.#one(['auto', 'auto', 'auto', 'compared', 'tracked'] as const);
    return { kind, base, method, level: this.#one([0, 1, 3]) };
  }

  /** Ids of the points of the volume as it is now, oldest first. */
  #ofVolume(): string[] {
    const history = this.#open();
    try {
      return history.of(this.#id).map(({ manifest }) => manifest.id);
    } finally {
      history.close();
    }
  }

  #id = '';

  async #backup(): Promise<void> {
    this.#id = (await this.#client.ask<VolumeFacts>('GET', `/volumes/${this.#volume}`)).id;
    const options = this.#options();
    const moment = Buffer.from(this.#model);
    // What is written while the snapshot is read belongs to the next point.
    const meanwhile = this.#random(2) === 0;
    let wrote = false;
    const write = () => {
      if (meanwhile && !wrote) this.#write();
      wrote = true;
    };
    try {
      const { results } = await backupVolumes(
        [this.#volume],
        { state: this.#daemon.state, to: this.#history },
        { ...OPTIONS, ...options, progress: write },
      );
      this.#expect(results[0]!.point.manifest.id, moment);
    } catch (error) {
      // Asked for what cannot be had: no point, and nothing happened.
      const asked = options.method === 'tracked' || options.base !== undefined;
      if (!(asked && error instanceof AsofError && error.code === 'BASE_UNUSABLE')) throw error;
    }
  }

  #expect(id: string, bytes: Buffer): void {
    this.#points.set(id, { bytes, step: `step ${this.#step}` });
  }

  /** A backup that is told to stop leaves nothing, or was whole already. */
  async #stopped(): Promise<void> {
    const before = this.#count();
    const moment = Buffer.from(this.#model);
    const stop = new AbortController();
    const calls = this.#random(3);
    let called = 0;
    const progress = () => {
      if (called++ >= calls) stop.abort();
    };
    try {
      const { results } = await backupVolumes(
        [this.#volume],
        { state: this.#daemon.state, to: this.#history },
        { ...OPTIONS, kind: 'full', signal: stop.signal, progress },
      );
      this.#expect(results[0]!.point.manifest.id, moment);
    } catch (error) {
      if (!(error instanceof AsofError) || !stop.signal.aborted) throw error;
      if (this.#count() !== before) throw new Error('a backup that was stopped left a point');
    }
    await this.#noSnapshots();
  }

  async #verified(): Promise<void> {
    const { status, stderr, stdout } = await asof('verify', this.#history, '--deep', '--json');
    if (status !== 0) throw new Error(`verify: ${stderr}${stdout}`);
  }

  /** Under a mount nothing is taken away, and backups go on. */
  async #busy(): Promise<void> {
    if (this.#count() === 0) return;
    const mount = join(this.#folder, 'shown');
    mkdirSync(mount, { recursive: true });
    await run(ASOF, ['mount', this.#history, mount]);
    try {
      const history = this.#open();
      history.close();
      try {
        await consolidate(this.#history, { keep: { last: 1 } });
        const volumes = new Set(history.points.map(({ manifest }) => manifest.volume.id));
        if (history.points.length > volumes.size) throw new Error('points left under a mount');
      } catch (error) {
        if (!(error instanceof AsofError) || error.code !== 'HISTORY_BUSY') throw error;
      }
      await this.#backup();
      const { manifest, moment } = this.#one(history.points);
      const is = readFileSync(join(mount, manifest.volume.name, moment, 'disk'));
      same(is, this.#known(manifest.id), `${manifest.id}, mounted while others work`);
    } finally {
      await run(ASOF, ['umount', mount]);
    }
  }

  #spawnBackup(): { child: ChildProcess; begun: Promise<void>; ended: Promise<number | null> } {
    const child = spawn(
      ASOF,
      ['backup', this.#volume, '--to', this.#history, '--state', this.#daemon.state, '--json'],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const ended = new Promise<number | null>(done => child.once('close', done));
    const begun = new Promise<void>(done => {
      child.stderr.once('data', () => done());
      ended.then(() => done());
    });
    return { child, begun, ended };
  }

  /** Some time of a process: while it starts, or shortly after it has begun its work. */
  async #anyMoment(begun: Promise<void>): Promise<void> {
    const starting = this.#random(3) === 0;
    if (!starting) await begun;
    await new Promise(done => setTimeout(done, this.#random(starting ? 500 : 60)));
  }

  /** The process dies wherever it is: there is one point more, or none. */
  async #killedBackup(): Promise<void> {
    const moment = Buffer.from(this.#model);
    const { child, begun, ended } = this.#spawnBackup();
    await this.#anyMoment(begun);
    child.kill('SIGKILL');
    await ended;
    this.#mayHaveCome(moment);
    await this.#noSnapshots();
  }

  async #daemonKilledInBackup(): Promise<void> {
    const moment = Buffer.from(this.#model);
    const { begun, ended } = this.#spawnBackup();
    await this.#anyMoment(begun);
    this.#closeLive();
    await this.#daemon.end('SIGKILL');
    await ended;
    await attempt('umount', ['-l', this.#daemon.mount]);
    await this.#daemon.start();
    this.#openLive();
    this.#mayHaveCome(moment);
    await this.#noSnapshots();
  }

  #mayHaveCome(bytes: Buffer): void {
    const history = this.#open();
    try {
      for (const { manifest } of history.points) {
        if (this.#points.has(manifest.id) || this.#leaving.has(manifest.id)) continue;
        this.#expect(manifest.id, bytes);
      }
    } finally {
      history.close();
    }
  }

  /** A backup that was stopped or killed, or whose daemon was, leaves none in the daemon. */
  async #noSnapshots(): Promise<void> {
    await eventually(async () => {
      return (await this.#client.ask<unknown[]>('GET', '/snapshots')).length === 0;
    }, 'the snapshot of a backup that was ended goes');
  }

  /** The origin is no volume of a daemon for a moment: backed up as a file, a history of another volume in the same folder. */
  async #byPath(): Promise<void> {
    const bytes = readFileSync(this.#origin);
    const { point } = await backup(this.#origin, this.#history, { ...OPTIONS, level: 1 });
    this.#expect(point.manifest.id, bytes);
  }

  // ── the daemon ──

  async #restarted(signal: NodeJS.Signals, meanwhile?: () => Promise<void>): Promise<void> {
    this.#closeLive();
    const status = await this.#daemon.end(signal);
    if (signal === 'SIGTERM' && status !== 0) throw new Error(`asof serve ended with ${status}`);
    await meanwhile?.();
    await this.#daemon.start();
    this.#openLive();
    const is = readFileSync(this.#live);
    same(is, this.#model.subarray(0, is.length), 'the live file after a restart');
  }

  async #loseTracking(): Promise<void> {
    const folder = join(this.#daemon.state, 'volumes');
    for (const name of readdirSync(folder)) {
      if (existsSync(join(folder, name, 'tracker'))) truncateSync(join(folder, name, 'tracker'), 0);
    }
  }

  /** Shorter than it was, it is no volume any more, and no backup of it can be had; whole again, it is one. */
  async #shrunk(): Promise<void> {
    this.#closeLive();
    await this.#daemon.end('SIGTERM');
    const rest = this.#length();
    truncateSync(this.#origin, this.#model.length - 512 * (1 + this.#random(8)));
    await this.#daemon.start();
    const before = this.#count();
    try {
      await backupVolumes([this.#volume], { state: this.#daemon.state, to: this.#history }, OPTIONS);
      throw new Error('a volume whose origin is too short was backed up');
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
    }
    if (this.#count() !== before) throw new Error('a refused backup left a point');
    await this.#daemon.end('SIGTERM');
    truncateSync(this.#origin, rest);
    const fd = openSync(this.#origin, 'r+');
    writeSync(fd, this.#model, 0, this.#model.length, 0);
    closeSync(fd);
    await this.#daemon.start();
    this.#openLive();
  }

  /** The volume is removed and added again, perhaps with another size: it is another volume. */
  async #addedAgain(): Promise<void> {
    this.#closeLive();
    await this.#noSnapshots();
    await this.#client.ask('DELETE', `/volumes/${this.#volume}`);
    const size = this.#model.length + this.#one([0, 65536 * 3, -65536 * 2, 512]);
    truncateSync(this.#origin, size);
    const model = Buffer.alloc(size);
    this.#model.copy(model);
    this.#model = model;
    await this.#add();
    const is = readFileSync(this.#live);
    same(is, this.#model, 'the live file of a volume that was added again');
  }

  // ── what leaves, and comes back ──

  async #restoreTo(target: string): Promise<void> {
    const ids = [...this.#points].filter(([, { bytes }]) => bytes.length === this.#model.length);
    if (ids.length === 0) return;
    const [id, { bytes }] = this.#one(ids);
    const isLive = this.#fd >= 0;
    this.#closeLive(); // it would be in use
    const point = openPoint(`${this.#history}@${id}`);
    try {
      await restore(point, target, { ...RESTORE, force: true });
    } finally {
      point.close();
    }
    if (isLive) this.#openLive();
    bytes.copy(this.#model);
    const is = readFileSync(target);
    same(is.subarray(0, this.#model.length), this.#model, `restored onto ${target}`);
  }

  async #prune(): Promise<void> {
    const keep = { last: 3 + this.#random(8), ...(this.#random(3) === 0 ? { hourly: 2 } : {}) };
    const { done } = await consolidate(this.#history, { keep });
    for (const { point } of done) this.#gone(point.manifest.id);
  }

  async #dropOne(): Promise<void> {
    if (this.#points.size < 3) return;
    const id = this.#one([...this.#points.keys()]);
    const { done, stays } = await consolidate(this.#history, { point: id });
    for (const { point } of done) this.#gone(point.manifest.id);
    const stayed = stays.some(({ point }) => point.manifest.id === id);
    if (this.#points.has(id) && !stayed) throw new Error(`${id} was not taken away, and nobody says why`);
  }

  #gone(id: string): void {
    this.#points.delete(id);
    this.#leaving.delete(id);
  }

  /** Killed wherever it is: what was to go may be there or not, and is what it was if it is; all else is there. */
  async #killedPrune(): Promise<void> {
    const ids = this.#ids();
    const keep = 3 + this.#random(6);
    const child = spawn(ASOF, ['consolidate', this.#history, '--keep-last', String(keep)], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const ended = new Promise(done => child.once('close', done));
    const begun = new Promise<void>(done => {
      child.stdout.once('data', () => done());
      ended.then(() => done());
    });
    await this.#anyMoment(begun);
    await end(child, 'SIGKILL');
    const left = new Set(this.#ids());
    // Of each volume for itself: as many as stay are the newest of it.
    for (const id of ids) {
      if (left.has(id)) continue;
      const known = this.#points.get(id) ?? this.#leaving.get(id);
      if (!known) continue;
      if (this.#newest(keep).has(id)) throw new Error(`${id} is one of the last ${keep}, and is gone`);
      this.#points.delete(id);
      this.#leaving.set(id, known);
    }
    await this.#sound();
  }

  /** By the order in which they were made: the last `count` of each volume. */
  #newest(count: number): Set<string> {
    const of = new Map<string, string[]>();
    for (const [id, volume] of this.#volumes) of.set(volume, [...(of.get(volume) ?? []), id]);
    const there = (id: string) => this.#points.has(id);
    return new Set([...of.values()].flatMap(ids => ids.filter(there).slice(-count)));
  }

  /** The volume of each point that was ever listed, in the order of their times. */
  readonly #volumes = new Map<string, string>();

  // ── what is there ──

  #open(): History {
    if (!existsSync(this.#history)) mkdirSync(this.#history);
    return new History(this.#history);
  }

  #ids(): string[] {
    const history = this.#open();
    try {
      return history.points.map(({ manifest }) => manifest.id);
    } finally {
      history.close();
    }
  }

  #count(): number {
    return this.#ids().length;
  }

  /** All points are there that must be, and no other. */
  #list(): void {
    const history = this.#open();
    try {
      if (history.troubles.length > 0) throw new Error(history.troubles.join('; '));
      const ids = new Set<string>();
      for (const { manifest } of history.points) {
        ids.add(manifest.id);
        if (!this.#volumes.has(manifest.id)) this.#volumes.set(manifest.id, manifest.volume.id);
        const known = this.#points.get(manifest.id) ?? this.#leaving.get(manifest.id);
        if (!known) throw new Error(`${manifest.id} has come from nowhere`);
        if (manifest.disk.size !== known.bytes.length) throw new Error(`${manifest.id} has another size`);
      }
      for (const [id, { step }] of this.#points) {
        if (!ids.has(id)) throw new Error(`${id} of ${step} is gone`);
      }
    } finally {
      history.close();
    }
  }

  async #look(): Promise<void> {
    await this.#sound();
    const history = this.#open();
    const points = history.points.map(({ manifest }) => [manifest.id, manifest.image.file] as const);
    history.close();
    for (const [id, file] of [this.#one(points), points.at(-1)!]) {
      this.#qemu(id, file);
      await this.#restored(id);
    }
  }

  /** qemu-img check of each image that is listed. */
  async #sound(): Promise<void> {
    const history = this.#open();
    history.close();
    // What a merge has copied so far is no loss where it is finished or undone later.
    const merging = readdirSync(this.#history).some(name => name.endsWith('.merge'));
    for (const { manifest, stem } of history.points) {
      const report = qemuCheck(join(this.#history, manifest.image.file));
      const bad = ['check-errors', 'corruptions', 'leaks'].filter(key => report[key]);
      if (bad.length > 0 && !(merging && bad.join() === 'leaks'))
        throw new Error(`qemu-img check of ${stem}: ${JSON.stringify(report)}`);
    }
  }

  #known(id: string): Buffer {
    return (this.#points.get(id) ?? this.#leaving.get(id)!).bytes;
  }

  /** From the qcow2 files alone. */
  #qemu(id: string, file: string): void {
    const raw = join(this.#folder, 'peer.raw');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', join(this.#history, file), raw);
    const bytes = this.#known(id);
    same(readFileSync(raw).subarray(0, bytes.length), bytes, `qemu-img convert of ${file}`);
    rmSync(raw);
  }

  async #restored(id: string): Promise<void> {
    const target = join(this.#folder, 'restored.raw');
    const point = openPoint(`${this.#history}@${id}`);
    try {
      await restore(point, target, RESTORE);
    } finally {
      point.close();
    }
    same(readFileSync(target), this.#known(id), `${id}, restored`);
    rmSync(target);
  }

  /** Every point in every way; the history moves to another folder in between. */
  async all(t: Test): Promise<void> {
    // What a killed run has left is finished first: by one that takes nothing away.
    const { done } = await consolidate(this.#history, { keep: { last: 10_000 } });
    for (const { point } of done) this.#gone(point.manifest.id);
    this.#list();
    await this.#sound();
    await this.#mounted();
    const verified = await asof('verify', this.#history, '--deep', '--json');
    if (verified.status !== 0)
      throw new Error(`${this.#title}: verify: ${verified.stderr}${verified.stdout}`);
    for (const id of this.#ids()) await this.#restored(id);
    const moved = join(this.#folder, 'elsewhere');
    renameSync(this.#history, moved);
    this.#history = moved;
    const history = this.#open();
    history.close();
    for (const { manifest } of history.points) this.#qemu(manifest.id, manifest.image.file);
    await this.#served(history.points.at(-1)!.manifest.image.file, history.points.at(-1)!.manifest.id);
    this.#closeLive();
    if ((await this.#daemon.end('SIGTERM')) !== 0) throw new Error('asof serve did not end cleanly');
    const is = readFileSync(this.#origin).subarray(0, this.#model.length);
    same(is, this.#model, 'the origin in the end');
    const steps = [...this.#done].map(([name, count]) => `${count} ${name}`).join(', ');
    t.pass(`${this.#title}: ${this.#points.size} points are what they were; ${steps}`);
  }

  async #mounted(): Promise<void> {
    const mount = join(this.#folder, 'shown');
    mkdirSync(mount, { recursive: true });
    await run(ASOF, ['mount', this.#history, mount]);
    try {
      const history = this.#open();
      history.close();
      for (const { manifest, moment } of history.points) {
        const is = readFileSync(join(mount, manifest.volume.name, moment, 'disk'));
        same(is, this.#known(manifest.id), `${manifest.id}, mounted`);
      }
    } finally {
      await run(ASOF, ['umount', mount]);
    }
  }

  /** qemu-nbd opens it too. */
  async #served(file: string, id: string): Promise<void> {
    const socket = join(this.#folder, 'nbd');
    const raw = join(this.#folder, 'peer.raw');
    const child = spawn(
      'qemu-nbd',
      ['--read-only', '--format=qcow2', `--socket=${socket}`, join(this.#history, file)],
      { stdio: 'ignore' },
    );
    try {
      for (let n = 0; !existsSync(socket); n++) {
        if (n > 1500 || child.exitCode !== null) throw new Error('qemu-nbd does not serve');
        await new Promise(done => setTimeout(done, 20));
      }
      qemuImg('convert', '-f', 'raw', '-O', 'raw', `nbd+unix:///?socket=${socket}`, raw);
      const bytes = this.#known(id);
      same(readFileSync(raw).subarray(0, bytes.length), bytes, `qemu-nbd of ${file}`);
      rmSync(raw);
    } finally {
      await end(child, 'SIGKILL');
    }
  }
}

const RESTORE = {
  partition: undefined,
  dryRun: false,
  force: false,
  verify: true,
  ignoreReadErrors: false,
  rate: 0,
  signal: undefined,
  progress: undefined,
};

function same(is: Buffer, wanted: Buffer, what: string): void {
  if (is.equals(wanted)) return;
  const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex').slice(0, 12);
  const first = is.findIndex((byte, i) => byte !== wanted[i]);
  throw new Error(
    `${what}: ${is.length} bytes, ${digest(is)}, not ${wanted.length}, ${digest(wanted)}; the first that differs is ${first}`,
  );
}
