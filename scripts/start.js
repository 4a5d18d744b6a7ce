/**
 * `npm start [-- --keep]`: sets up, makes a disk image with a history, mounts it and shows what one can do with it.
 * It unmounts at the end, and on Ctrl-C, unless --keep is given.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { ROOT } from './build.js';
import { makeDemoImage, SNAPSHOT } from './demo-image.js';
import { findProgram } from './packages.js';
import { run, setup } from './setup.js';

const DEMO = join(ROOT, 'demo');
const MOUNT = join(DEMO, 'mnt');
const keep = process.argv.includes('--keep');

async function main() {
  setup(['build', 'demo'], ['run']);
  if (isMounted()) asof(['umount', MOUNT], 'ignore');
  process.on('SIGINT', () => {
    if (isMounted()) asof(['umount', MOUNT], 'ignore');
    process.exit(130);
  });

  say('A disk image with a history: an ext4 file system, two overlays on it, and a snapshot.');
  const image = await makeDemoImage(DEMO, join(ROOT, 'scripts/demo'), [
    join(ROOT, 'src'),
    join(ROOT, 'docs'),
  ]);
  mkdirSync(MOUNT, { recursive: true });
  show(['points', image]);

  say('Mounted, each point in time is a disk:');
  show(['mount', image, MOUNT]);
  try {
    for (const line of tree(MOUNT)) console.log(`  ${line}`);
    const points = JSON.parse(asof(['points', image, '--json'], 'pipe').stdout);
    tellStory(image, Array.isArray(points) ? points : points.points);
  } finally {
    if (!keep) show(['umount', MOUNT]);
  }
  closing(image);
  return 0;
}

/** What changed, and what a file said at each point. */
function tellStory(image, points) {
  const find = name => points.find(point => point.name === name);
  const [first, second] = [find('day-1.qcow2'), find('day-2.qcow2')];
  say('Which sectors the second day changed:');
  show(['compare', image, first.id, second.id]);

  say('What the accounts said, read out of the disk of each point with debugfs (no root, no loop device):');
  for (const point of [first, second, find(SNAPSHOT), find('day-3.qcow2')]) {
    const disk = join(MOUNT, point.moment, 'disk');
    const { stdout, stderr } = tool('debugfs', ['-R', 'cat accounts/november.csv', disk]);
    const lift = stdout.split('\n').find(line => line.includes('lift'));
    const answer = lift ?? (stderr.includes('File not found') ? 'the file is not there' : stderr.trim());
    console.log(`  ${point.moment}  ${point.name.padEnd(SNAPSHOT.length)}  ${answer}`);
  }
}

function closing(image) {
  const here = path => relative(process.cwd(), path) || '.';
  console.log(`
Try it on an image of your own (raw or qcow2; it is opened read-only):
  mkdir -p /tmp/asof && node ${here(join(ROOT, 'bin/asof'))} mount IMAGE /tmp/asof
  ls /tmp/asof
  sudo mount -o ro,noload,loop /tmp/asof/disk /mnt      an ext4 file system without partitions
  sudo umount /mnt; node ${here(join(ROOT, 'bin/asof'))} umount /tmp/asof`);
  console.log(
    keep
      ? `The demonstration stays mounted: node ${here(join(ROOT, 'bin/asof'))} umount ${here(MOUNT)}`
      : `The demonstration is unmounted; its image is ${here(image)}. npm start -- --keep leaves it mounted.`,
  );
}

/** Two levels of the mount, with sizes. */
function tree(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    if (!entry.isDirectory()) return [entry.name];
    return [`${entry.name}/`, ...readdirSync(join(folder, entry.name)).map(name => `  ${name}`)];
  });
}

function say(text) {
  console.log(`\n${text}`);
}

/** Runs a command with its output shown below the line that one would type. */
function show(args) {
  const typed = args.map(word => word.replace(`${DEMO}/`, 'demo/')).map(quote);
  console.log(`$ asof ${typed.join(' ')}`);
  const { status, stderr } = asof(args, 'inherit');
  if (status !== 0) throw new Error(`asof ${args.join(' ')} ended with ${status}: ${stderr ?? ''}`);
}

function quote(word) {
  return /^[\w./@:=+-]+$/.test(word) ? word : `'${word}'`;
}

function asof(args, stdio) {
  return spawnSync(process.execPath, [join(ROOT, 'bin/asof'), ...args], {
    stdio: ['ignore', stdio, stdio === 'pipe' ? 'inherit' : stdio],
    encoding: 'utf8',
  });
}

function tool(name, args) {
  return spawnSync(findProgram(name) ?? name, args, {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  });
}

function isMounted() {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some(line => line.split(' ')[4] === MOUNT);
}

await run(main);
