/**
 * What a run leaves behind in the system: mounts, loop devices and processes that have to do with one folder. Others
 * may mount and attach on the same machine at the same time; theirs are not looked at.
 */
import { readdirSync, readFileSync } from 'node:fs';

/** A line each for what has one of `folders` in its mount point, backing file or command line. */
export function leftovers(folders) {
  const concerns = text => folders.some(folder => text.includes(folder));
  return [...mounts(), ...loops(), ...processes()].filter(concerns);
}

/** proc(5), mountinfo: the fifth field is the mount point; behind the dash come type and source. */
function mounts() {
  return readLines('/proc/self/mountinfo').map(line => {
    const [before, after = ''] = line.split(' - ');
    return `mount ${before.split(' ')[4]} (${after.split(' ').slice(0, 2).join(' ')})`;
  });
}

function loops() {
  return list('/sys/block')
    .filter(name => name.startsWith('loop'))
    .flatMap(name =>
      readLines(`/sys/block/${name}/loop/backing_file`).map(file => `/dev/${name} on ${file}`),
    );
}

function processes() {
  return list('/proc')
    .filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap(pid => {
      const words = readLines(`/proc/${pid}/cmdline`).join(' ').replaceAll('\0', ' ').trim();
      return words ? [`process ${pid}: ${words}`] : [];
    });
}

function readLines(path) {
  try {
    return readFileSync(path, 'utf8').split('\n').filter(Boolean);
  } catch {
    return []; // A process that has ended, or a kernel without the facility.
  }
}

function list(path) {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
