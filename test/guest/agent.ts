/**
 * The writer `qemu` with a real guest: this host's `asof serve` shows a volume, its live device is the disk of a guest that
 * writes to an ext4 on it, and asof speaks with the guest's agent. Judges are e2fsck, and the digests that the guest told of
 * what it had written: a file that was whole before the moment is there, although the guest never synced it.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { ASOF, asof, asofJson, mounted, peer } from '../cli/asof.js';
import { allTold, tests } from './tap.js';

interface Lab {
  /** It goes when this process ends. */
  readonly folder: string;
  readonly origin: string;
  readonly start: (
    disk: string,
    line: (text: string) => void,
  ) => { kill(): void; ended: Promise<{ whole: boolean }> };
}

/** As in agent.sh. */
const KEPT = 60;
/** Seconds that a guest of an emulator may be held on a busy machine. */
const LONG = '600';
/** Seconds that are waited for somebody who is known not to answer. */
const SHORT = '60';

/** For what the guest does: whoever waits for ever is ended by the time of the guest. */
async function until(is: () => boolean | Promise<boolean>, guest: { over: boolean }): Promise<void> {
  while (!(await is())) {
    if (guest.over) throw new Error('the guest is over');
    await setTimeout(100);
  }
}

/** Whether all is well. */
export async function test({ folder, origin, start }: Lab): Promise<boolean> {
  const state = join(folder, 'state');
  const mount = join(folder, 'mount');
  const socket = join(folder, 'agent');
  mkdirSync(mount);
  const daemon = spawn(ASOF, ['serve', '--state', state, '--mount', mount, '--log-level', 'warn'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  process.on('exit', () => {
    daemon.kill('SIGKILL');
    if (mounted(mount)) spawnSync('umount', ['-l', mount], { stdio: 'inherit' });
    rmSync(folder, { recursive: true, force: true });
  });
  for await (const piece of daemon.stdout) if (String(piece).includes('ready')) break;
  const told = new Map<number, string>();
  const guest = { over: false, writes: false, unmounted: false, failed: '' };
  const newest = () => Math.max(0, ...told.keys());
  await asofJson('volume', 'add', 'disk', origin, '--state', state);
  const { kill, ended } = start(join(mount, 'volumes', 'disk', 'live'), line => {
    const [, number, digest] = /^written ([0-9]+) ([0-9a-f]{32})$/.exec(line) ?? [];
    if (number !== undefined) return void told.set(Number(number), digest!);
    guest.writes ||= line === '# it writes';
    guest.unmounted ||= line === 'unmounted';
    if (line.startsWith('failed')) guest.failed ||= line;
    console.log(line.startsWith('#') ? line : `# ${line}`);
  });
  ended.then(() => {
    guest.over = true;
  });
  try {
    await until(() => guest.writes && newest() >= 5, guest);
    const control = await Control.connect(join(folder, 'control'), guest);
    all({ folder, state, mount, socket, control, told, guest, newest });
    tests('the end').test('the guest’s file system is whole, and the daemon stops', async t => {
      await control.say('touch /tmp/enough');
      t.ok((await ended).whole && guest.unmounted, 'unmounted in the guest');
      t.equal(guest.failed, '');
      daemon.kill('SIGTERM');
      const [status] = await once(daemon, 'exit');
      t.equal(status, 0);
      t.equal(await fsck(origin), '');
    });
    return await allTold();
  } finally {
    kill();
    await ended;
  }
}

/** What e2fsck finds; '' for nothing. */
async function fsck(file: string): Promise<string> {
  try {
    await peer('e2fsck', '-fn', file);
    return '';
  } catch (error) {
    return `${(error as { code?: number }).code}: ${(error as { stdout?: string }).stdout}`;
  }
}

interface Place {
  readonly folder: string;
  readonly state: string;
  readonly mount: string;
  readonly socket: string;
  readonly control: Control;
  readonly told: ReadonlyMap<number, string>;
  readonly guest: { over: boolean };
  readonly newest: () => number;
}

function all({ folder, state, mount, socket, control, told, guest, newest }: Place): void {
  const qemu = ['--writer', `qemu:socket=${socket}`];
  const disk = ['disk', '--state', state];
  const take = (...args: string[]) => asof('snapshot', 'create', ...args);
  const snapshots = () =>
    asofJson<{ id: string; moment: string; consistency: string }[]>('snapshot', 'list', '--state', state);
  const last = async () => (await snapshots()).at(-1)!;
  const goesOn = async () => {
    const was = newest();
    await until(() => newest() > was + 1, guest);
  };
  /** A file to look at, since e2fsck and debugfs are told nothing but paths. */
  const copy = async () => {
    const file = join(folder, 'copy');
    await peer('cp', join(mount, 'volumes', 'disk', (await last()).moment, 'disk'), file);
    return file;
  };
  const features = async (file: string) =>
    /^Filesystem features:.*$/m.exec(await peer('dumpe2fs', '-h', file))?.[0] ?? '';
  /** Takes one, and does `work` when all writers hold. */
  const takeAnd = async (args: readonly string[], work: () => Promise<void>) => {
    const held = join(folder, 'held');
    const go = join(folder, 'go');
    for (const each of [held, go]) rmSync(each, { force: true });
    const hold = `touch ${held}; until [ -e ${go} ]; do sleep 0.1; done`;
    const timeout = LONG;
    let over = false;
    const taking = take(
      ...args,
      ...['--writer', `command:${JSON.stringify({ hold, shell: 'yes', timeout })}`],
    ).finally(() => {
      over = true;
    });
    await until(() => existsSync(held) || over, guest);
    await work();
    writeFileSync(go, '');
    return taking;
  };

  const t = tests('agent');
  t.test('without the agent the journal of the guest is not empty', async t => {
    t.equal((await take(...disk)).status, 0);
    t.equal((await last()).consistency, 'crash');
    t.match(await features(await copy()), 'needs_recovery');
  });

  for (const round of [1, 2, 3]) {
    t.test(`the agent froze the guest: round ${round}`, async t => {
      const before = newest();
      const { status, stderr } = await take(...disk, ...qemu, '--deadline', LONG);
      t.equal(status, 0, stderr);
      t.equal((await last()).consistency, 'filesystem');
      t.equal(await ask(socket, 'guest-fsfreeze-status'), 'thawed');
      await goesOn();
      const file = await copy();
      t.ok(!(await features(file)).includes('needs_recovery'), 'its journal is empty');
      t.equal(await fsck(file), '', 'e2fsck finds nothing');
      const found = await digests(file, join(folder, 'files'));
      const most = Math.max(...found.keys());
      await until(() => newest() >= most, guest);
      t.ok(most >= before, 'what was there before is in it');
      // The newest may have been in the middle of it, and so may the removal of the oldest.
      for (let n = Math.max(1, most - KEPT + 1); n < most; n++) {
        if (found.get(n) !== told.get(n)) t.equal(found.get(n), told.get(n), `file ${n} of ${most}`);
      }
      t.ok(Math.min(...found.keys()) >= most - KEPT, `${found.size} files, ${most} the newest`);
    });
  }

  t.test('the agent that dies while all hold, and comes back, thaws', async t => {
    const { status, stderr } = await takeAnd([...disk, ...qemu, '--deadline', LONG], async () => {
      await control.say('killall -9 qemu-ga');
    });
    t.equal(status, 0, stderr);
    t.equal((await last()).consistency, 'filesystem');
    await goesOn();
    t.equal(await fsck(await copy()), '');
  });

  t.test('the agent that dies in the middle of a freeze: no snapshot, and the guest goes on', async t => {
    const { length } = await snapshots();
    await control.say('touch /tmp/die');
    const { status, stderr } = await take(...disk, ...qemu, '--deadline', SHORT, '--json');
    t.not(status, 0);
    t.match(stderr, 'CONSISTENCY_UNMET');
    t.match(stderr, `qemu ${socket}: no answer within`);
    t.equal((await snapshots()).length, length, 'nothing was taken');
    await control.say('rm /tmp/die');
    await goesOn();
    t.equal((await take(...disk, ...qemu, '--deadline', LONG)).status, 0, 'and the next one is taken');
  });

  t.test('the agent that dies while all hold: no snapshot; it thaws as soon as it is back', async t => {
    const { length } = await snapshots();
    const { status, stderr } = await takeAnd([...disk, ...qemu, '--deadline', SHORT], async () => {
      await control.say('touch /tmp/no-agent; killall -9 qemu-ga');
    });
    t.not(status, 0);
    t.match(stderr, `qemu ${socket}: no answer within`);
    t.equal((await snapshots()).length, length, 'nothing was taken');
    const second = await take(...disk, ...qemu);
    t.not(second.status, 0);
    t.match(second.stderr, /earlier/);
    await control.say('rm /tmp/no-agent');
    await goesOn();
    t.equal((await take(...disk, ...qemu, '--deadline', LONG)).status, 0, 'and the next one is taken');
    t.equal((await last()).consistency, 'filesystem');
  });

  t.test('the daemon that is killed while all hold: the guest is thawed', async t => {
    // Another one, since the guest's disk lives by the first.
    const other = ['--state', join(folder, 'other')];
    const small = join(folder, 'small');
    writeFileSync(small, Buffer.alloc(65_536));
    const daemon = spawn(ASOF, ['serve', ...other, '--log-level', 'warn'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    process.on('exit', () => daemon.kill('SIGKILL'));
    for await (const piece of daemon.stdout) if (String(piece).includes('ready')) break;
    await asofJson('volume', 'add', 'small', small, ...other);
    const { status } = await takeAnd(['small', ...other, ...qemu, '--deadline', LONG], async () => {
      daemon.kill('SIGKILL');
    });
    t.not(status, 0);
    await goesOn();
    t.equal(await ask(socket, 'guest-fsfreeze-status'), 'thawed');
  });

  t.test('a guest that somebody else has frozen is refused, and left frozen', async t => {
    const frozen = Number(await ask(socket, 'guest-fsfreeze-freeze'));
    t.ok(frozen > 0);
    const { status, stderr } = await take(...disk, ...qemu);
    t.not(status, 0);
    t.match(stderr, /somebody else/);
    t.equal(await ask(socket, 'guest-fsfreeze-status'), 'frozen');
    t.equal(await ask(socket, 'guest-fsfreeze-thaw'), frozen);
    await goesOn();
  });
}

/** What is in the root of an ext4, read by debugfs: digests by number. */
async function digests(file: string, into: string): Promise<Map<number, string>> {
  rmSync(into, { recursive: true, force: true });
  mkdirSync(into);
  await peer('debugfs', '-R', `rdump / ${into}`, file);
  const found = new Map<number, string>();
  for (const name of readdirSync(into)) {
    if (!/^[0-9]+$/.test(name)) continue;
    found.set(
      Number(name),
      createHash('md5')
        .update(readFileSync(join(into, name)))
        .digest('hex'),
    );
  }
  return found;
}

/** One question to the agent, by somebody who is not asof. */
async function ask(socket: string, execute: string): Promise<unknown> {
  const connection = createConnection(socket);
  connection.write(`${JSON.stringify({ execute })}\n`);
  let text = '';
  for await (const piece of connection) {
    text += String(piece);
    if (text.endsWith('\n')) break;
  }
  connection.destroy();
  return (JSON.parse(text) as { return: unknown }).return;
}

/** Commands that the guest's shell evaluates. */
class Control {
  readonly #socket: Socket;
  readonly #guest: { readonly over: boolean };
  #text = '';

  private constructor(socket: Socket, guest: { readonly over: boolean }) {
    this.#socket = socket;
    this.#guest = guest;
    socket.setEncoding('utf8').on('data', piece => {
      this.#text += piece;
    });
  }

  static async connect(path: string, guest: { readonly over: boolean }): Promise<Control> {
    const socket = createConnection(path);
    await once(socket, 'connect');
    return new Control(
      socket.on('error', () => {}),
      guest,
    );
  }

  async say(command: string): Promise<string> {
    this.#text = '';
    this.#socket.write(`${command}\n`);
    await until(() => /^done\r?$/m.test(this.#text), this.#guest);
    return this.#text;
  }
}
