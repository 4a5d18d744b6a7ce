/**
 * Without root a point's file systems are attached by FUSE programs on the files of its partitions, with no device; who else may
 * not be served says so.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { attempt, missing } from '../peers.js';
import { ASOF, mounted } from './asof.js';
import {
  DRIVE_NEEDS,
  DRIVE_PEERS,
  digest,
  diskOf,
  LETTER,
  remains,
  scratch,
  type Told,
} from './drive-lab.js';

t.setTimeout(240_000);

const NOBODY = 65534;
const AS_NOBODY = [
  `--reuid=${NOBODY}`,
  `--regid=${NOBODY}`,
  '--clear-groups',
  '--',
  'env',
  'XDG_RUNTIME_DIR=',
];
const own = join(tmpdir(), `asof-${NOBODY}`, 'attach');

const skip =
  missing([...DRIVE_PEERS, 'fuse2fs', 'fusermount3', 'setpriv', 'unshare'], DRIVE_NEEDS) ||
  (await unreadable());

async function unreadable(): Promise<string | false> {
  const { code } = await attempt('setpriv', [...AS_NOBODY, ASOF, '--version']);
  return code === 0 ? false : 'another user cannot run this checkout';
}

// In a mount namespace with a /dev/fuse for everybody, as udev makes it, and a fuse.conf of its own.
if (!skip && !process.env['ASOF_TEST_NAMESPACE']) {
  const script =
    'set -e; mknod -m 666 "$0" c 10 229; mount --bind "$0" /dev/fuse; rm "$0"; ' +
    'echo user_allow_other > "$0"; chmod 644 "$0"; mount --bind "$0" /etc/fuse.conf; rm "$0"; exec "$@"';
  const scrap = join(tmpdir(), `asof-fuse-${process.pid}`);
  const again = ['sh', '-c', script, scrap, process.execPath, new URL(import.meta.url).pathname];
  const { status } = spawnSync('unshare', ['--mount', '--propagation', 'private', ...again], {
    stdio: 'inherit',
    env: { ...process.env, ASOF_TEST_NAMESPACE: '1' },
  });
  process.exit(status ?? 1);
}

async function asNobody(...words: readonly string[]) {
  const { code, stdout, stderr } = await attempt('setpriv', [...AS_NOBODY, ASOF, ...words, '--json']);
  return { code, stdout: stdout.toString(), stderr };
}

t.test('attached by nobody', { skip }, async t => {
  const folder = scratch(t);
  chmodSync(folder, 0o755);
  const image = await diskOf(t, folder, 'gpt', ['ext4', 'ntfs', 'xfs']);
  chmodSync(image, 0o644);
  const before = digest(image);
  const dir = join(folder, 'dir');
  mkdirSync(dir);
  chownSync(dir, NOBODY, NOBODY);
  t.teardown(() => asNobody('detach', '--lazy', dir));

  const alone = await asNobody('attach', image);
  t.equal(alone.code, 1);
  t.match(JSON.parse(alone.stderr).error.message, /a loop device is for root/);

  for (const others of [true, false]) {
    writeFileSync('/etc/fuse.conf', others ? 'user_allow_other\n' : '');
    const { code, stdout, stderr } = await asNobody('attach', image, dir);
    t.equal(code, 0, stderr);
    const told = JSON.parse(stdout) as Told;
    t.equal(told.device, null);
    t.same(
      told.fileSystems.map(({ type }) => type),
      others ? ['ext4', 'ntfs'] : ['ext4'],
    );
    t.match(told.troubles.join('\n'), /p3 is not mounted: xfs can be mounted by root alone/);
    if (!others) t.match(told.troubles.join('\n'), /p2 is not mounted: ntfs-3g runs with other rights/);
    for (const { mountPoint } of told.fileSystems) {
      t.equal(mounted(mountPoint)?.type.startsWith('fuse'), true);
      const { stdout: bytes } = await attempt('setpriv', [
        ...AS_NOBODY,
        'cat',
        join(mountPoint, 'home/alice/letter'),
      ]);
      t.ok(bytes.equals(LETTER), mountPoint);
    }
    const { stdout: listed } = await asNobody('attach', '--list');
    t.match(JSON.parse(listed), [{ dir, users: [] }]);
    t.equal((await asNobody('detach', dir)).code, 0);
    t.same(remains(dir, image), []);
    t.same(readdirSync(dir), []);
    t.same(existsSync(own) ? readdirSync(own) : [], []);
  }

  await t.test('and its server killed', async t => {
    const { stdout } = await asNobody('attach', image, dir);
    const told = JSON.parse(stdout) as Told & { readonly mountPoint: string };
    const folder = join(own, '..');
    const [entry] = readdirSync(folder).filter(name => name.endsWith('.json'));
    process.kill((JSON.parse(readFileSync(join(folder, entry!), 'utf8')) as { pid: number }).pid, 'SIGKILL');
    const { stdout: listed } = await asNobody('attach', '--list');
    t.same(JSON.parse(listed), []);
    t.same(remains(dir, told.mountPoint), []);
  });
  t.equal(digest(image), before);
  t.equal(statSync(dir).uid, NOBODY);
});
