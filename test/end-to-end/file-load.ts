/**
 * A program that works on a file system as people's programs do (untars, renames, deletes, syncs, trims) and writes down
 * outside of it what has been promised: `file-load.js FOLDER JOURNAL SEED`, until its standard input ends. The journal has
 * a line before each thing is begun, and one after the sync that makes it last has returned:
 *
 *     begin N        the file keep/N is about to be made
 *     kept N DIGEST  it is there, and synced, and so is its folder
 *     retire N       it is about to be deleted
 *     write I SEQ    the block I of the file `slots` is about to become what slot(I, SEQ) says
 *     wrote I SEQ    it is synced
 *     trim, trimmed  fstrim is about to be run, and has ended
 *     tree N / drop N  the folder trees/N is there with all that is in the archive / is about to go
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { randomOf } from '../cow/rig.js';

export const SLOTS = 8;
/** Bytes of a block that no file system of ours writes in parts. */
export const SLOT = 4096;

export function slot(index: number, sequence: number): Buffer {
  return createHash('shake256', { outputLength: SLOT }).update(`${index} ${sequence}`).digest();
}

function main(folder: string, journalPath: string, seed: number): void {
  const random = randomOf(seed);
  const journal = openSync(journalPath, 'a');
  const say = (...words: (string | number)[]) => writeSync(journal, `${words.join(' ')}\n`);
  const keep = join(folder, 'keep');
  const trees = join(folder, 'trees');
  const slots = openSync(join(folder, 'slots'), 'r+');
  const kept: number[] = [];
  const planted: number[] = [];
  const sequences = new Array<number>(SLOTS).fill(0);
  let count = 0;

  const steps: Record<string, () => void> = {
    keep() {
      const n = ++count;
      const bytes = createHash('shake256', { outputLength: 1 + random(random(4) === 0 ? 300_000 : 20_000) })
        .update(`${seed} ${n}`)
        .digest();
      say('begin', n);
      const temporary = join(keep, `.new-${n}`);
      const fd = openSync(temporary, 'w');
      writeSync(fd, bytes);
      fsyncSync(fd);
      closeSync(fd);
      renameSync(temporary, join(keep, String(n)));
      syncFolder(keep);
      say('kept', n, createHash('sha256').update(bytes).digest('hex'));
      kept.push(n);
    },
    retire() {
      if (kept.length < 40) return;
      const [n] = kept.splice(random(kept.length), 1);
      say('retire', n!);
      rmSync(join(keep, String(n)));
    },
    slot() {
      const index = random(SLOTS);
      const sequence = ++sequences[index]!;
      say('write', index, sequence);
      writeSync(slots, slot(index, sequence), 0, SLOT, index * SLOT);
      fdatasyncSync(slots);
      say('wrote', index, sequence);
    },
    plant() {
      const n = ++count;
      const temporary = join(trees, `.new-${n}`);
      mkdirSync(temporary);
      program('tar', '-xf', join(dirname(journalPath), 'archive.tar'), '-C', temporary);
      program('sync', '-f', temporary);
      renameSync(temporary, join(trees, String(n)));
      syncFolder(trees);
      say('tree', n);
      planted.push(n);
    },
    drop() {
      if (planted.length < 3) return;
      const [n] = planted.splice(random(planted.length), 1);
      say('drop', n!);
      renameSync(join(trees, String(n)), join(trees, `.old-${n}`));
      rmSync(join(trees, `.old-${n}`), { recursive: true });
    },
    /** Nobody is promised anything about these. */
    churn() {
      for (let i = 0; i < 8; i++) {
        const path = join(folder, `churn-${random(16)}`);
        writeFileSync(path, Buffer.alloc(random(200_000), i + 1));
        if (random(2) === 0) renameSync(path, join(folder, `churn-${random(16)}`));
        else if (random(4) === 0) rmSync(path);
      }
    },
    /** Not while `no-trim` stands beside the journal: btrfs discards in a frozen file system, too. */
    trim() {
      say('trim');
      if (!existsSync(join(dirname(journalPath), 'no-trim'))) program('fstrim', folder);
      say('trimmed');
    },
  };
  const often = ['keep', 'keep', 'keep', 'retire', 'retire', 'slot', 'slot', 'slot', 'churn'];
  const all = [...often, ...often, ...often, ...often, 'plant', 'drop', 'trim'];

  let ending = false;
  process.stdin.on('end', () => {
    ending = true;
  });
  process.stdin.resume();
  const work = async () => {
    while (!ending) {
      steps[all[random(all.length)]!]!();
      await setImmediate();
    }
  };
  void work();
}

function syncFolder(path: string): void {
  const fd = openSync(path, 'r');
  fsyncSync(fd);
  closeSync(fd);
}

function program(name: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(name, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${name} ${args.join(' ')} ended with ${status}: ${stderr}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main(process.argv[2]!, process.argv[3]!, Number(process.argv[4]));
}
