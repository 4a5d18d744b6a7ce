import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import t from 'tap';
import { ASOF, asof, peer } from './asof.js';

interface Told {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string };
}

t.setTimeout(1_200_000);

const folder = t.testdir({ 'disk.raw': 'x'.repeat(1024), 'luks.img': '', file: '' });
const disk = `${folder}/disk.raw`;

const bash = (script: string) => promisify(execFile)('/bin/bash', ['-c', script]);

/** The command line, the status, the code. */
const CASES: readonly (readonly [readonly string[], number, string])[] = [
  [['frobnicate'], 1, 'USAGE'],
  [['info'], 1, 'USAGE'],
  [['info', disk, 'more'], 1, 'USAGE'],
  [['info', disk, '--nothing'], 1, 'USAGE'],
  [['read', disk, '--length', '-5'], 1, 'USAGE'],
  [['read', disk, '--offset', 'ten'], 1, 'USAGE'],
  [['read', disk, '--offset', '1025'], 1, 'OUT_OF_RANGE'],
  [['read', disk, '--offset', '1', '--length', '1024'], 1, 'OUT_OF_RANGE'],
  [['map', disk, '--length', '2K'], 1, 'OUT_OF_RANGE'],
  [['mount', disk], 1, 'USAGE'],
  // An empty word, of a variable that is not set, meant the current folder: `asof umount "$DIR"` would have ended
  // whatever was mounted there.
  [['umount', ''], 1, 'USAGE'],
  [['mount', disk, ''], 1, 'USAGE'],
  [['info', ''], 1, 'USAGE'],
  [['info', disk, '--search', ''], 1, 'USAGE'],
  [['mount', disk, folder, '--driver', 'magic'], 1, 'USAGE'],
  [['mount', disk, folder, '--on-damage', 'guess'], 1, 'USAGE'],
  [['mount', disk, folder, '--cache', '1.5G'], 1, 'USAGE'],
  [['mount', disk, folder, '--log-level', 'loud'], 1, 'USAGE'],
  [['info', `${folder}/none.raw`], 2, 'NOT_FOUND'],
  [['info', folder], 2, 'IO'],
  [['info', disk, '--format', 'vmdk9'], 2, 'IMAGE_UNSUPPORTED'],
  [['map', disk, '--point', 'nothing'], 2, 'POINT_UNKNOWN'],
  [['map', disk, '--point', '@1970-01-01'], 2, 'POINT_UNKNOWN'],
  [['map', disk, '--point', '@yesterday'], 2, 'POINT_UNKNOWN'],
  [['umount', folder], 2, 'NOT_MOUNTED'],
  [['mount', `${folder}/none.raw`, folder], 2, 'NOT_FOUND'],
];

for (const [argv, status, code] of CASES) {
  t.test(`asof ${argv.map(word => word.replace(folder, '')).join(' ')}`, async t => {
    const plain = await asof(...argv);
    t.equal(plain.status, status, plain.stderr);
    t.equal(plain.stdout.length, 0, 'nothing on standard output');
    t.match(plain.stderr, /^asof: ./);
    t.notMatch(plain.stderr, /^ {4}at /m, 'no stack');
    const json = await asof(...argv, '--json');
    t.equal(json.status, status);
    t.equal(json.stdout.length, 0);
    const { error } = JSON.parse(json.stderr) as Told;
    t.equal(error.code, code);
    t.match(plain.stderr, error.message.slice(0, 60));
    t.equal(typeof error.hint, 'string');
  });
}

t.test('a reader that goes away ends a command quietly', async t => {
  const image = `${folder}/many.qcow2`;
  const plain = `${folder}/many.raw`;
  // A map of 16,384 lines: more than a pipe holds.
  const bytes = Buffer.alloc(16 * 2 ** 20);
  for (let i = 0; i < bytes.length; i += 1024) bytes[i] = 1;
  writeFileSync(plain, bytes);
  const options = ['-o', 'cluster_size=512', '-S', '512'];
  await peer('qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'qcow2', ...options, plain, image);
  for (const command of ['map', 'map --json', 'read', 'read --json']) {
    const { stdout, stderr } = await bash(
      `'${ASOF}' ${command} '${image}' | head -c 100 | wc -c; echo "\${PIPESTATUS[0]}"`,
    );
    t.equal(stderr, '', command);
    t.equal(stdout, '100\n0\n', command);
  }
  // Many pieces, each larger than the pipe: no listener, no warning is left by any.
  const { stdout, stderr } = await bash(
    `truncate -s 100M '${folder}/large'; '${ASOF}' read '${folder}/large' | wc -c`,
  );
  t.equal(stderr, '');
  t.equal(stdout, `${100 * 2 ** 20}\n`);
});

t.test('a full disk is told, and not as a bug', async t => {
  for (const command of ['info', 'points', 'map', 'read', 'check', '--help']) {
    const script = `'${ASOF}' ${command} '${disk}' > /dev/full; echo "$?"`;
    const { stdout, stderr } = await bash(script);
    t.equal(stdout.trim(), '2', command);
    t.equal(stderr, 'asof: cannot write to standard output: ENOSPC\n', command);
  }
});
