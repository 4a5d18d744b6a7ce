/**
 * A volume as its user has it: a daemon that `asof serve` started, a live device in its mount, a loop device over that, a
 * file system on it. Everything is taken down when the test is over, the newest first, whatever state it is in.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { ASOF, asofJson } from '../cli/asof.js';
import { attempt, detachLoops, run } from '../peers.js';

export interface Snapshot {
  readonly id: string;
  readonly moment: string;
  readonly state: string;
  readonly why: string;
}

/** A folder that every user may enter: a database refuses to be root. */
export function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'asof-live-'));
  chmodSync(folder, 0o755);
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Ends a process and waits for its end; its exit status. */
export async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = new Promise(done => child.once('exit', done));
    child.kill(signal);
    await ended;
  }
  return child.exitCode;
}

/** `asof serve` over a state directory and a mount of its own in `folder`; it may be ended and started again. */
export class Daemon {
  readonly state: string;
  readonly mount: string;
  #child: ChildProcess | undefined;

  private constructor(folder: string) {
    this.state = join(folder, 'state');
    this.mount = join(folder, 'mount');
  }

  static async start(t: Test, folder: string): Promise<Daemon> {
    const daemon = new Daemon(folder);
    mkdirSync(daemon.mount);
    t.teardown(async () => {
      await daemon.end('SIGKILL');
      await attempt('umount', ['-l', daemon.mount]);
    });
    await daemon.start();
    return daemon;
  }

  async start(): Promise<void> {
    const child = spawn(
      ASOF,
      ['serve', '--state', this.state, '--mount', this.mount, '--log-level', 'error'],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    this.#child = child;
    let text = '';
    child.stdout.setEncoding('utf8').on('data', piece => {
      text += piece;
    });
    const until = Date.now() + 120_000; // a machine under load is slow to start a program
    while (!text.endsWith('\n') && child.exitCode === null && Date.now() < until) {
      await new Promise(done => setTimeout(done, 20));
    }
    if (!text.startsWith('ready on ')) throw new Error(`asof serve ended with ${child.exitCode}: ${text}`);
  }

  /** Its exit status; null where a signal ended it. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    return this.#child ? end(this.#child, signal) : null;
  }

  /** What a command answers. */
  ask<T>(...argv: string[]): Promise<T> {
    return asofJson<T>(...argv, '--state', this.state);
  }

  /** Protects `origin`; the path of its live device. */
  async protect(name: string, origin: string, ...options: string[]): Promise<string> {
    return (await this.ask<{ live: string }>('volume', 'add', name, origin, ...options)).live;
  }

  async snapshot(volume: string): Promise<Snapshot> {
    return (await this.ask<Snapshot[]>('snapshot', 'create', volume))[0]!;
  }

  disk(volume: string, { moment }: Snapshot): string {
    return join(this.mount, 'volumes', volume, moment, 'disk');
  }

  /** Lets `work` write to what begins as the snapshot, and drops what it wrote. The snapshot stays what it is. */
  async whileOverlaid<T>(snapshot: Snapshot, work: (path: string) => Promise<T>): Promise<T> {
    const { path } = await this.ask<{ path: string }>('snapshot', 'overlay', snapshot.id);
    try {
      return await work(path);
    } finally {
      await this.ask('snapshot', 'overlay', snapshot.id, '--drop');
    }
  }
}

export interface Kind {
  readonly name: 'ext4' | 'xfs' | 'btrfs';
  readonly make: readonly [program: string, ...options: string[]];
  /** So that nothing is written to it while it is frozen. */
  readonly mountOptions: readonly string[];
  /** Bytes; each of them has a size below which it is not made. */
  readonly size: number;
  /** How a copy is mounted beside what it is a copy of. */
  readonly copyOptions: readonly string[];
  /** Tells without a repair whether it is whole, once its journal is replayed. */
  readonly check: readonly [program: string, ...options: string[]];
}

const MiB = 2 ** 20;

export const EXT4: Kind = {
  name: 'ext4',
  make: ['mkfs.ext4', '-q', '-F'],
  mountOptions: [],
  size: 192 * MiB,
  copyOptions: [],
  check: ['e2fsck', '-f', '-n'],
};

export const XFS: Kind = {
  name: 'xfs',
  make: ['mkfs.xfs', '-q', '-f'],
  mountOptions: [],
  size: 320 * MiB,
  copyOptions: ['-o', 'nouuid'],
  check: ['xfs_repair', '-n'],
};

export const BTRFS: Kind = {
  name: 'btrfs',
  make: ['mkfs.btrfs', '-q', '-f'],
  mountOptions: ['-o', 'nodiscard'], // its thread discards what is free, frozen or not
  size: 512 * MiB,
  copyOptions: [],
  check: ['btrfs', 'check', '--readonly'],
};

/** What the file systems of these kinds need of the host. */
export function programsOf(kind: Kind): string[] {
  return [kind.make[0], kind.check[0], 'losetup', 'mount', 'umount', 'fsfreeze', 'fstrim', 'cp', 'cmp'];
}

/** A file system that is mounted on a loop device over `live`. */
export class FileSystem {
  readonly path: string;
  #device = '';

  private constructor(
    readonly kind: Kind,
    readonly live: string,
    folder: string,
  ) {
    this.path = join(folder, 'files');
  }

  /** Makes it, and mounts it below `folder`. */
  static async make(t: Test, kind: Kind, live: string, folder: string): Promise<FileSystem> {
    const made = new FileSystem(kind, live, folder);
    mkdirSync(made.path);
    t.teardown(async () => {
      await attempt('fsfreeze', ['-u', made.path]); // a frozen one cannot be unmounted
      if ((await attempt('umount', [made.path])).code !== 0) await attempt('umount', ['-l', made.path]);
      await detachLoops(live);
    });
    made.#device = await attach(live);
    const [program, ...options] = kind.make;
    await run(program, [...options, made.#device]);
    await run('mount', ['-t', kind.name, ...kind.mountOptions, made.#device, made.path]);
    return made;
  }

  /** Nothing is written while `work` goes on; what was written before is on the live device. */
  async whileFrozen<T>(work: () => Promise<T>): Promise<T> {
    await run('fsfreeze', ['-f', this.path]);
    try {
      return await work();
    } finally {
      await run('fsfreeze', ['-u', this.path]);
    }
  }

  async unmount(): Promise<void> {
    await run('umount', [this.path]);
    await run('losetup', ['-d', this.#device]);
  }
}

async function attach(path: string): Promise<string> {
  return (await run('losetup', ['-f', '--show', path])).trim();
}

/** Mounts the file system in `image`, which replays its journal; lets `work` see it; then checks it. What is wrong. */
export async function replayed(
  kind: Kind,
  image: string,
  work: (there: string) => Promise<string[]>,
): Promise<string[]> {
  const there = mkdtempSync(join(tmpdir(), 'asof-replayed-'));
  chmodSync(there, 0o755);
  const device = await attach(image);
  try {
    const mounted = await attempt('mount', ['-t', kind.name, ...kind.copyOptions, device, there]);
    if (mounted.code !== 0) return [`it does not mount: ${mounted.stderr}`];
    let wrong: string[];
    try {
      wrong = await work(there);
    } finally {
      await run('umount', [there]);
    }
    const [program, ...options] = kind.check;
    const { code, stdout, stderr } = await attempt(program, [...options, device]);
    return code === 0 ? wrong : [...wrong, `${program} ended with ${code}: ${stdout}${stderr}`];
  } finally {
    await run('losetup', ['-d', device]);
    rmSync(there, { recursive: true });
  }
}
