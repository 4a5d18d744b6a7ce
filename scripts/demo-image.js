/**
 * Makes the disk of the demonstration: an ext4 file system with a history, as a virtual machine would have left it.
 *
 *   day-1.qcow2   zstd clusters, all of the first day
 *   day-2.qcow2   an overlay: what changed on the second day
 *   day-3.qcow2   an overlay; in it a snapshot, "before the clean-up", then the clean-up
 */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findProgram } from './packages.js';

const DAY = 24 * 60 * 60;
export const SNAPSHOT = 'before the clean-up';

/** Makes the images in `folder`, from `content` (scripts/demo) and `bulk`, folders that give it some weight. */
export async function makeDemoImage(folder, content, bulk) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const at = name => join(folder, name);
  const qemuImg = (...args) => command('qemu-img', args, folder);

  const tree = at('tree');
  for (const from of bulk)
    cpSync(from, join(tree, 'project', relative(join(from, '..'), from)), { recursive: true });
  cpSync(join(content, 'day-1'), tree, { recursive: true });
  command('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-d', tree, 'day-1.raw', '64M'], folder);
  qemuImg('convert', '-O', 'qcow2', '-c', '-o', 'compression_type=zstd', 'day-1.raw', 'day-1.qcow2');

  // An empty overlay on the second day's disk, moved onto the first day's image: what it then holds is the difference.
  copyFileSync(at('day-1.raw'), at('day-2.raw'));
  edit(folder, 'day-2.raw', join(content, 'day-2'));
  qemuImg('create', '-q', '-f', 'qcow2', '-b', 'day-2.raw', '-F', 'raw', 'day-2.qcow2');
  qemuImg('rebase', '-f', 'qcow2', '-b', 'day-1.qcow2', '-F', 'qcow2', 'day-2.qcow2');

  copyFileSync(at('day-2.raw'), at('day-3.raw'));
  edit(folder, 'day-3.raw', join(content, 'day-3'));
  qemuImg('create', '-q', '-f', 'qcow2', '-b', 'day-2.qcow2', '-F', 'qcow2', 'day-3.qcow2');
  qemuImg('snapshot', '-c', SNAPSHOT, 'day-3.qcow2');
  await sleep(1100); // A moment's name has whole seconds.
  writeDifference(folder, 'day-2.raw', 'day-3.raw', 'day-3.qcow2');

  const now = Date.now() / 1000;
  utimesSync(at('day-1.qcow2'), now - 2 * DAY, now - 2 * DAY);
  utimesSync(at('day-2.qcow2'), now - DAY, now - DAY);
  for (const name of ['tree', 'day-1.raw', 'day-2.raw', 'day-3.raw']) rmSync(at(name), { recursive: true });
  return at('day-3.qcow2');
}

/** Changes files in the file system of a raw image, through debugfs: no mount, no root. */
function edit(folder, image, changes) {
  const removed = join(changes, 'removed');
  const gone = existsSync(removed) ? readFileSync(removed, 'utf8').trim().split('\n') : [];
  const requests = gone.map(path => `rm ${path}`);
  for (const entry of readdirSync(changes, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.name === 'removed') continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const name = relative(changes, path);
    requests.push(`rm ${name}`, `write ${path} ${name}`);
  }
  command('debugfs', ['-w', '-f', '-', image], folder, `${requests.join('\n')}\n`);
}

/** Writes into `image` the runs in which the raw image `after` differs from `before`. */
function writeDifference(folder, before, after, image) {
  const step = 4096;
  const a = readFileSync(join(folder, before));
  const b = readFileSync(join(folder, after));
  const writes = [];
  for (let offset = 0; offset < b.length; offset += step) {
    if (a.compare(b, offset, offset + step, offset, offset + step) === 0) continue;
    const bytes = join(folder, 'tree', `block-${offset}`);
    writeFileSync(bytes, b.subarray(offset, offset + step));
    writes.push('-c', `write -q -s ${bytes} ${offset} ${step}`);
  }
  command('qemu-io', ['-f', 'qcow2', ...writes, image], folder);
}

function command(name, args, cwd, input = '') {
  const result = spawnSync(findProgram(name) ?? name, args, {
    cwd,
    input,
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  });
  if (result.status !== 0) {
    throw new Error(`${name} ${args.join(' ')} failed: ${result.error?.message ?? result.stderr}`);
  }
  return result.stdout;
}
