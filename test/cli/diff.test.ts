/**
 * diff: the sectors in which two points differ are those of the model, whether they come from hash trees or from bytes, and
 * also where only digests can be cheap: a tebibyte. Of files, each that differs is marked, and why; no other is.
 */
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Manifest } from '../../src/image/manifest.js';
import { random } from '../image/history-lab.js';
import { noise } from '../image/peer.js';
import { missing, run } from '../peers.js';
import { asof, asofJson } from './asof.js';
import { fill, MIB, NEEDS, PEERS, scratch, within } from './file-lab.js';

t.setTimeout(240_000);

interface Run {
  readonly start: number;
  readonly length: number;
  readonly kind: string;
}

function put(path: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

const backup = (source: string, to: string) => asofJson<Manifest>('backup', source, '--to', to);

/** The runs of sectors in which two disks differ, by their bytes alone. */
function expected(a: Buffer, b: Buffer): Run[] {
  const found: Run[] = [];
  const both = Math.min(a.length, b.length);
  for (let at = 0; at < both; at += 512) {
    const end = Math.min(both, at + 512);
    if (a.compare(b, at, end, at, end) === 0) continue;
    const last = found.at(-1);
    if (last && last.start + last.length === at)
      found[found.length - 1] = { ...last, length: end - last.start };
    else found.push({ start: at, length: end - at, kind: 'different' });
  }
  if (a.length > both) found.push({ start: both, length: a.length - both, kind: 'only-left' });
  if (b.length > both) found.push({ start: both, length: b.length - both, kind: 'only-right' });
  return found;
}

/** Runs joined: two that touch are one, wherever a cluster ends. */
function joined(runs: readonly Run[]): Run[] {
  const found: Run[] = [];
  for (const run of runs) {
    const last = found.at(-1);
    if (last && last.kind === run.kind && last.start + last.length === run.start) {
      found[found.length - 1] = { ...last, length: last.length + run.length };
    } else found.push(run);
  }
  return found;
}

t.test('sectors', async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const source = join(folder, 'disk.img');
  const next = random(7);
  writeFileSync(source, noise(1, 3 * MIB + 700));
  const states: { id: string; bytes: Buffer }[] = [];
  for (let i = 0; i < 4; i++) {
    const { id } = await backup(source, history);
    states.push({ id, bytes: readFileSync(source) });
    for (let n = 0; n < 6; n++) put(source, next(3 * MIB), noise(100 + i * 10 + n, 1 + next(3000)));
    if (i === 1) truncateSync(source, 3 * MIB + 70_000);
    if (i === 2) truncateSync(source, 2 * MIB + 100);
  }
  const now = readFileSync(source);
  const raw = join(folder, 'copy.img');
  writeFileSync(raw, now);
  for (const [i, { id, bytes }] of states.entries()) {
    for (const [j, other] of states.entries()) {
      if ((i + j) % 2 === 0 && i !== j) continue;
      const runs = await asofJson<Run[]>('diff', `${history}@${id}`, `${history}@${other.id}`);
      t.same(joined(runs), expected(bytes, other.bytes), `${i} against ${j}, by digests`);
    }
  }
  const { id, bytes } = states[2]!;
  for (const right of ['live', raw, source]) {
    const runs = await asofJson<Run[]>('diff', `${history}@${id}`, right);
    t.same(joined(runs), expected(bytes, now), `against ${right}, by bytes`);
  }
  const text = (await asof('diff', history, `${history}@${id}`)).stdout.toString();
  t.match(text, /START +LENGTH +KIND\n.*differs\n.*only right\n.* are equal, compared by digests/s);
  t.equal((await asof('diff', raw, 'live')).status, 1, 'live is for points of a history');
});

t.test('a tebibyte costs what differs', async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const source = join(folder, 'disk.img');
  const fd = openSync(source, 'w');
  ftruncateSync(fd, 2 ** 40);
  closeSync(fd);
  put(source, 2 ** 39, noise(1, 1000));
  const first = await backup(source, history);
  put(source, 2 ** 39 + 512, noise(2, 512));
  await backup(source, history);
  const runs = await asofJson<Run[]>('diff', `${history}@${first.id}`, history);
  t.same(runs, [{ start: 2 ** 39 + 512, length: 512, kind: 'different' }]);
});

t.test('files', { skip: missing([...PEERS, 'mkfs.ext4'], NEEDS) }, async t => {
  const folder = scratch(t);
  const history = join(folder, 'history');
  const image = join(folder, 'fs.img');
  writeFileSync(image, '');
  truncateSync(image, 64 * MIB);
  await run('mkfs.ext4', ['-q', '-F', image]);
  await within(t, image, 'ext4', async root => {
    await fill(root, true);
    for (const name of ['same', 'grown', 'changed', 'sly', 'gone', 'moved', 'chmodded']) {
      writeFileSync(join(root, name), `${name} as it was`);
    }
  });
  const root = `${image}.mnt`;
  await run('umount', [root]);
  const { id } = await backup(image, history);
  await run('mount', ['-o', 'loop', image, root]);
  writeFileSync(join(root, 'grown'), 'grown, and is longer now');
  writeFileSync(join(root, 'changed'), 'changed as it WAS');
  // Size and time are as they were, and only the bytes tell.
  const time = join(folder, 'time');
  writeFileSync(time, '');
  await run('touch', ['-r', join(root, 'sly'), time]);
  writeFileSync(join(root, 'sly'), 'sly as it WAS');
  await run('touch', ['-r', time, join(root, 'sly')]);
  rmSync(join(root, 'gone'));
  renameSync(join(root, 'moved'), join(root, 'home/moved'));
  await run('chmod', ['600', join(root, 'chmodded')]);
  mkdirSync(join(root, 'new'));
  writeFileSync(join(root, 'new/file'), 'new');
  await run('umount', [root]);
  interface Told {
    readonly path: string;
    readonly kind: string;
    readonly why: readonly string[];
  }
  const told = await asofJson<Told[]>('diff', `${history}@${id}`, 'live', '--files');
  t.same(
    told.map(({ path, kind, why }) => [path, kind, why.join(' ')]),
    [
      ['/changed', 'differs', 'content time'],
      ['/chmodded', 'differs', 'mode'],
      ['/gone', 'only-left', ''],
      ['/grown', 'differs', 'size time'],
      ['/home/moved', 'only-right', ''],
      ['/moved', 'only-left', ''],
      ['/new', 'only-right', ''],
      ['/sly', 'differs', 'content'],
    ],
  );
  const all = await asofJson<Told[]>('diff', `${history}@${id}`, history, '--files', '--all', '--bytes');
  t.ok(all.length > 10 && all.every(({ kind }) => kind === 'equal'), 'a point against itself');
  const text = (await asof('diff', `${history}@${id}`, image, '--files')).stdout.toString();
  t.match(text, /only left +14 B +- +\/gone/);
});
