/** `asof consolidate` as a user runs it: rules, a dry run, one point, and a mount that is not pulled away. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { noise } from '../image/peer.js';
import { missing } from '../peers.js';
import { asof, asofJson } from './asof.js';

t.setTimeout(180_000);

interface Listed {
  readonly points: readonly { readonly id: string; readonly stem: string }[];
}

t.test('points leave', { skip: missing(['cat'], ['fuse']) }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'asof-consolidate-cli-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const source = join(folder, 'disk.img');
  const history = join(folder, 'history');
  for (let i = 0; i < 4; i++) {
    writeFileSync(source, Buffer.concat([noise(1, 200_000), noise(i, 100_000)]));
    const { status, stderr } = await asof('backup', source, '--to', history);
    t.equal(status, 0, stderr);
  }
  const { points } = (await asofJson('history', history)) as Listed;
  t.equal(points.length, 4);
  const files = readdirSync(history).sort();

  t.equal((await asof('consolidate', history)).status, 1, 'a folder needs rules');
  t.equal((await asof('consolidate', history, '--keep-last', '0')).status, 1, 'rules that keep nothing');
  t.equal((await asof('consolidate', history, '--keep-last', 'x')).status, 1);
  const file = join(history, `${points[1]!.stem}.qcow2`);
  t.equal((await asof('consolidate', file, '--keep-last', '1')).status, 1, 'one point needs none');
  const plan = (await asofJson('consolidate', history, '--keep-last', '2', '--dry-run')) as {
    actions: { id: string; into: string | null }[];
    kept: Record<string, string[]>;
  };
  t.same(
    plan.actions.map(({ id, into }) => [id, into]),
    [
      [points[0]!.id, points[1]!.id],
      [points[1]!.id, points[2]!.id],
    ],
  );
  t.same(plan.kept, { [points[2]!.id]: ['last'], [points[3]!.id]: ['last'] });
  t.same(readdirSync(history).sort(), files, 'a dry run does nothing');

  const at = join(folder, 'mnt');
  mkdirSync(at);
  t.equal((await asof('mount', history, at)).status, 0);
  try {
    const refused = await asof('consolidate', history, '--keep-last', '2');
    t.equal(refused.status, 2);
    t.match(refused.stderr, `the mount on ${at}`);
    t.same(readdirSync(history).sort(), files, 'nothing is pulled away');
  } finally {
    await asof('umount', at);
  }

  const one = await asof('consolidate', file);
  t.equal(one.status, 0, one.stderr);
  t.match(one.stdout.toString(), `${points[1]!.stem}: merged into ${points[2]!.stem}`);
  const rest = await asof('consolidate', history, '--keep-last', '2');
  t.equal(rest.status, 0, rest.stderr);
  const left = (await asofJson('history', history)) as Listed;
  t.same(
    left.points.map(({ id }) => id),
    [points[2]!.id, points[3]!.id],
  );
  t.equal((await asof('verify', history, '--deep')).status, 0);
});
