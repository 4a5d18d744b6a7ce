/**
 * Whatever is killed, and whenever: the next command finds what is left and takes it away, and nothing of others. The server of
 * a mount, with its file systems in use; and `asof attach` itself, at many moments.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { missing, run } from '../peers.js';
import { ASOF, asofJson, eventually, mounted, running } from './asof.js';
import {
  DRIVE_NEEDS,
  DRIVE_PEERS,
  digest,
  diskOf,
  folderOf,
  list,
  remains,
  scratch,
  type Told,
} from './drive-lab.js';

t.setTimeout(240_000);

const skip = missing(DRIVE_PEERS, DRIVE_NEEDS);

/** The servers of mounts of `image`, by their command line. */
function servers(image: string): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(pid => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return words.some(word => word.endsWith('server.js')) && words.includes(image);
      } catch {
        return false;
      }
    })
    .map(Number);
}

t.test('the server of the mount', { skip }, async t => {
  const folder = scratch(t);
  const image = await diskOf(t, folder, 'gpt', ['ext4', 'ntfs']);
  const dir = join(folder, 'dir');
  mkdirSync(dir);
  for (const used of [false, true]) {
    const told = await asofJson<Told>('attach', image, dir);
    t.equal(told.fileSystems.length, 2);
    const child = spawn('sleep', ['600'], { cwd: used ? join(dir, 'p1', 'home') : '/' });
    t.teardown(() => child.kill('SIGKILL'));
    const pids = servers(image);
    t.equal(pids.length, 1);
    process.kill(pids[0]!, 'SIGKILL');
    await eventually(() => !running(pids[0]!), 'it has gone');
    t.same(
      (await list()).filter(({ asked }) => asked === image),
      [],
    );
    t.notOk(mounted(join(dir, 'p1')));
    t.notOk(mounted(join(dir, 'p2')));
    child.kill('SIGKILL');
    await once(child, 'exit');
    await eventually(() => remains(folderOf(told), dir).length === 0, 'nothing is left');
    t.notOk(existsSync(folderOf(told)));
    t.same(readdirSync(dir), []);
  }
  const again = await asofJson<Told>('attach', image, dir);
  t.equal(again.fileSystems.length, 2, 'and it can be attached again');
  await asofJson('detach', dir);
});

t.test('the server of a mount that stood before', { skip }, async t => {
  const folder = scratch(t);
  const image = await diskOf(t, folder, 'gpt', ['ext4', 'swap']);
  const dir = join(folder, 'dir');
  const at = join(folder, 'at');
  mkdirSync(dir);
  mkdirSync(at);
  const { pid } = await asofJson<{ pid: number }>('mount', image, at);
  t.teardown(() => run('umount', ['-l', at]).catch(() => {}));
  const told = await asofJson<Told>('attach', image, dir);
  t.equal(told.mountPoint, at);
  process.kill(pid, 'SIGKILL');
  await eventually(() => !running(pid), 'it has gone');
  t.same(
    (await list()).filter(({ asked }) => asked === image),
    [],
  );
  t.same(remains(folderOf(told), dir), [], 'what was attached has gone; the mount is its owner’s');
});

t.test('asof attach itself', { skip }, async t => {
  const folder = scratch(t);
  const image = await diskOf(t, folder, 'gpt', ['ext4', 'ntfs', 'swap']);
  const before = digest(image);
  const dir = join(folder, 'dir');
  mkdirSync(dir);
  const own = '/run/asof/attach';
  const had = new Set(existsSync(own) ? readdirSync(own) : []);
  let killed = 0;
  for (const after of [50, 250, 450, 650, 900, 1300]) {
    const child = spawn(ASOF, ['attach', image, dir], { stdio: 'ignore', detached: true });
    const ended = once(child, 'exit');
    await new Promise(done => setTimeout(done, after));
    if (child.exitCode === null) {
      killed++;
      // What it had run goes on for a moment; nobody waits for it.
      child.kill('SIGKILL');
    }
    await ended;
    const gone = async () => {
      await list();
      if ((await list()).some(({ asked }) => asked === image))
        await asofJson('detach', image).catch(() => {});
      const left = existsSync(own)
        ? readdirSync(own).filter(name => !had.has(name) && name.startsWith(`${child.pid}-`))
        : [];
      return left.length === 0 && remains(dir, image).length === 0 && servers(image).length === 0;
    };
    await eventually(gone, `all of it is gone after ${after} ms`);
    t.same(readdirSync(dir), [], `killed after ${after} ms`);
  }
  t.ok(killed > 0);
  t.equal(digest(image), before);
});
