/**
 * Without root: fusermount3 mounts, and unmounts, for the user to whom the directory belongs.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { findFusermount } from '../../src/mount/fusermount.js';
import { mountAt } from '../../src/mount/mounts.js';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { cannotMount, has, run, until, Workshop } from './fixture.js';

const NOBODY = 65534;
const AS_NOBODY = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--'];
const server = new URL('server.js', import.meta.url).pathname;

async function impossible(): Promise<string> {
  const why = cannotMount(nativeFuse.unavailable());
  if (why) return why;
  if (!findFusermount()) return 'fusermount3 is not installed';
  if (process.geteuid?.() !== 0) return 'needs root, to become somebody else';
  if (!has('setpriv')) return 'setpriv is not installed';
  const readable = await run(
    'setpriv',
    ...AS_NOBODY,
    process.execPath,
    '-e',
    `const fs = require('fs'); fs.readFileSync('${server}'); fs.accessSync('${tmpdir()}', fs.constants.W_OK)`,
  );
  return readable.status === 0
    ? ''
    : 'another user cannot read this checkout, or write to the temporary folder';
}

const why = await impossible();
if (why) {
  t.plan(0, why);
  process.exit(0);
}

// Where /dev/fuse is root's alone, the test runs in a mount namespace with one for everybody, as udev makes it.
if ((statSync('/dev/fuse').mode & 0o006) !== 0o006 && !process.env['ASOF_TEST_DEVICE']) {
  const script = 'mknod -m 666 "$0" c 10 229 && mount --bind "$0" /dev/fuse && rm "$0" && exec "$@"';
  const device = join(tmpdir(), `asof-fuse-device-${process.pid}`);
  const command = ['sh', '-c', script, device, process.execPath, new URL(import.meta.url).pathname];
  const { status } = spawnSync('unshare', ['--mount', '--propagation', 'private', ...command], {
    stdio: 'inherit',
    env: { ...process.env, ASOF_TEST_DEVICE: '1' },
  });
  process.exit(status ?? 1);
}

const workshop = new Workshop();
chmodSync(workshop.folder, 0o755);
const dir = workshop.directory();
chownSync(dir, NOBODY, NOBODY);
let child: ChildProcess | undefined;
t.teardown(async () => {
  child?.kill('SIGKILL');
  if (mountAt(dir)) await run('umount', '-l', dir);
  workshop.close();
});

await t.test('mounted, read and unmounted by nobody', async t => {
  const env = { ...process.env, XDG_RUNTIME_DIR: '' };
  child = spawn('setpriv', [...AS_NOBODY, process.execPath, server, dir], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env,
  });
  let said = '';
  child.stdout!.setEncoding('utf8').on('data', (more: string) => {
    said += more;
  });
  await until(() => said.includes('\n') || child?.exitCode !== null, 'the server');
  const first = JSON.parse(said.split('\n')[0]!);
  t.equal(first.error, undefined);
  t.equal(mountAt(dir)?.type, 'fuse.asof');
  t.equal(mountAt(dir)?.source, 'served');
  t.equal(first.facts.passthrough, false, 'passing through takes root');

  const as = (...command: string[]) => run('setpriv', ...AS_NOBODY, ...command);
  t.equal((await as('cmp', join(dir, 'disk'), first.oracle)).status, 0);
  t.equal((await as('stat', '-c', '%u %a', join(dir, 'disk'))).stdout.toString().trim(), `${NOBODY} 444`);

  const exit = once(child, 'exit');
  const unmount = new URL('../../src/mount/unmount.js', import.meta.url).href;
  const program = `import('${unmount}').then(m => m.unmountAt('${dir}'))`;
  // It loads the addon, and so a sanitizer with it.
  const preload = `LD_PRELOAD=${process.env['LD_PRELOAD'] ?? ''}`;
  const answer = await as('env', preload, process.execPath, '-e', program);
  t.equal(answer.status, 0, `the same user unmounts it ${answer.stderr}`);
  t.equal(mountAt(dir), undefined);
  await exit;
  t.match(said, /unmounted elsewhere/);
});
