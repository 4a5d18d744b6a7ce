/**
 * A file system lives on a volume, under load, and snapshots are taken. Each must be the one moment that it claims to be:
 * what its journal replays to is whole, all that was synced before is in it, and its bytes stay what they were.
 *
 * The bytes of a moment under load cannot be known beforehand. Where the file system is frozen, they are in the origin:
 * a copy of that, made by `cp` past the volume, is the model of the snapshot. Of the other moments the copy is made from
 * the snapshot when it is new, and all has been overwritten when they are compared again.
 */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { emptyFile } from '../cow/lab.js';
import { attempt, missing, run } from '../peers.js';
import { Load, type Span } from './file-promises.js';
import {
  BTRFS,
  Daemon,
  FileSystem,
  type Kind,
  programsOf,
  replayed,
  type Snapshot,
  scratch,
} from './protected.js';
import { isInterrupted, limit, progress, rounds, soaking } from './soak.js';

interface Taken {
  readonly snapshot: Snapshot;
  readonly span: Span;
  readonly copy: string | undefined;
  readonly what: string;
}

/** In a soak: snapshots of one load, a second apart, and of how many one has a copy. */
const SOAK_SNAPSHOTS = 180;
const SOAK_COPIES = 12;

/** In a test: snapshots at conditions, and so many lines of the load's journal between two. */
const SNAPSHOTS = 6;
const LINES = 24;

export function snapshotsOf(kind: Kind): void {
  limit(240_000);
  const skip = missing([...programsOf(kind), 'fio', 'tar', 'sync'], ['root', 'loop', 'fuse']);
  t.test(kind.name, { skip }, async t => {
    await rounds(t, 1, (t, seed) => underLoad(t, kind, seed));
  });
}

async function underLoad(t: Test, kind: Kind, seed: number): Promise<void> {
  const folder = scratch(t);
  const origin = emptyFile(join(folder, 'origin'), kind.size);
  const daemon = await Daemon.start(t, folder);
  const live = await daemon.protect('disk', origin, '--durability', soaking ? 'power' : 'process');
  const files = await FileSystem.make(t, kind, live, folder);
  const load = await Load.start(t, files.path, folder, seed);

  const taken: Taken[] = [];
  const checked = new Set<Taken>();
  const count = soaking ? SOAK_SNAPSHOTS : SNAPSHOTS;
  while (taken.length < count && !isInterrupted()) {
    if (soaking) await new Promise(done => setTimeout(done, 1000));
    else await load.progress(LINES);
    taken.push(await take(taken.length));
    progress(`${kind.name}: ${taken.length} snapshots`);
    // A btrfs of the same identity cannot be mounted twice by every kernel.
    const last = taken.at(-1)!;
    if (taken.length <= 2 && kind !== BTRFS) {
      await check(last, 'under load');
      checked.add(last);
    }
  }
  await load.progress(LINES);
  await load.stop();
  await files.unmount();
  for (const [i, one] of taken.entries()) {
    if (isInterrupted()) return;
    if (checked.has(one)) continue;
    progress(`${kind.name}: checking ${i + 1} of ${taken.length}`);
    await check(one, 'afterwards');
  }
  for (const { snapshot, what, copy } of taken) {
    if (copy) await equal(daemon.disk('disk', snapshot), copy, `${what}: in the end`);
  }
  t.same(
    (await daemon.ask<Snapshot[]>('snapshot', 'list')).map(({ id, state }) => ({ id, state })),
    taken.map(({ snapshot }) => ({ id: snapshot.id, state: 'live' })),
  );

  async function take(index: number): Promise<Taken> {
    const copied = !soaking || index % SOAK_COPIES < 2;
    const frozen = copied && index % 2 === 1;
    const what = `${index}, ${frozen ? 'frozen' : 'running'}`;
    const copy = join(folder, `copy-${index}`);
    const before = load.lines().length;
    const taking = async () => {
      const snapshot = await daemon.snapshot('disk');
      if (frozen) await sparse(origin, copy);
      return snapshot;
    };
    const snapshot = frozen ? await load.withoutTrims(() => files.whileFrozen(taking)) : await taking();
    const after = load.lines().length;
    const disk = daemon.disk('disk', snapshot);
    if (copied && !frozen) await sparse(disk, copy);
    if (frozen) await equal(disk, copy, `${what}: when it is new`);
    return { snapshot, span: { before, after }, copy: copied ? copy : undefined, what };
  }

  async function check({ snapshot, span, what }: Taken, when: string): Promise<void> {
    const wrong = await daemon.whileOverlaid(snapshot, path =>
      replayed(kind, path, async there => load.broken(there, span)),
    );
    t.same(wrong, [], `${what}: whole, with all that was synced, ${when}`);
  }

  async function equal(disk: string, copy: string, what: string): Promise<void> {
    const { code, stdout, stderr } = await attempt('cmp', [disk, copy]);
    t.equal(code, 0, `${what}: ${stdout}${stderr}`);
  }
}

function sparse(from: string, to: string): Promise<string> {
  return run('cp', ['--sparse=always', '--reflink=never', from, to]);
}
