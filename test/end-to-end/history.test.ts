/**
 * A long random life of a history: after writes, backups of all kinds, kills, lost tracking, foreign writes, restores,
 * prunings and resizes every point is the model's bytes, through a mount, through QEMU from the files alone, restored, and
 * with the folder in another place.
 */
import t, { type Test } from 'tap';
import { missing } from '../peers.js';
import { Life } from './history-model.js';
import { scratch } from './protected.js';
import { limit, rounds, soaking } from './soak.js';

limit(240_000);

const STEPS = soaking ? 240 : 46;

t.test(
  'against a model',
  { skip: missing(['qemu-img', 'qemu-nbd', 'umount', 'fallocate'], ['root', 'fuse']) },
  t => rounds(t, 1, life),
);

async function life(t: Test, seed: number): Promise<void> {
  const one = await Life.begin(t, scratch(t), seed);
  await one.steps(STEPS);
  await one.all(t);
}
