/** Numbers stay with what stays, and are never given twice. */
import t from 'tap';
import { Numbers } from '../../src/mount/numbers.js';
import type { Directory, Entry, ShownDisk } from '../../src/mount/tree.js';
import type { NativeDisk } from '../../src/native.js';

const THEN = new Date(1000);
const LATER = new Date(2000);

const shown = (): ShownDisk => ({ size: 0, native: {} as NativeDisk });
const disk = (name: string, of: ShownDisk, writable = false): Entry => ({
  kind: 'disk',
  name,
  modified: THEN,
  disk: of,
  writable,
});
const text = (name: string): Entry => ({ kind: 'text', name, modified: THEN, text: () => name });
const folder = (name: string, entries: Entry[], modified = THEN): Directory => ({
  kind: 'directory',
  name,
  modified,
  entries,
});

const A = shown();
const B = shown();

/** The paths of a tree by their numbers. */
function paths(numbers: Numbers, tree: Directory): Record<string, number | undefined> {
  const found: Record<string, number | undefined> = {};
  const walk = (entry: Entry, path: string) => {
    found[path] = numbers.idOf(entry);
    if (entry.kind === 'directory') for (const child of entry.entries) walk(child, `${path}/${child.name}`);
  };
  walk(tree, '');
  return found;
}

t.test('numbers', async t => {
  const first = folder('', [folder('a', [disk('disk', A), text('info')]), disk('live', B)]);
  const numbers = new Numbers(first);
  t.same(
    numbers.first.map(({ id, parent, entry }) => [id, parent, entry.name]),
    [
      [1, 1, ''],
      [2, 1, 'a'],
      [3, 2, 'disk'],
      [4, 2, 'info'],
      [5, 1, 'live'],
    ],
  );

  const again = folder('', [disk('live', B), folder('a', [text('info'), disk('disk', A)])]);
  const same = numbers.compare(again);
  t.same([same.gone, same.fresh], [[], []], 'made anew, in another order');
  t.equal(numbers.idOf(again.entries[0]!), undefined, 'not before it is accepted');
  same.accept();
  t.same(paths(numbers, again), { '': 1, '/live': 5, '/a': 2, '/a/info': 4, '/a/disk': 3 });
  t.equal(numbers.entry(5), again.entries[0]);

  const more = folder('', [
    disk('live', B),
    folder('a', [text('info'), disk('disk', B)], LATER),
    folder('b', [disk('disk', A)]),
  ]);
  const change = numbers.compare(more);
  t.same(change.gone, [3], 'another disk is another file');
  t.same(
    change.fresh.map(({ id, parent, entry }) => [id, parent, entry.name]),
    [
      [2, 1, 'a'],
      [6, 2, 'disk'],
      [7, 1, 'b'],
      [8, 7, 'disk'],
    ],
    'another time, and what is new, parents first',
  );
  change.accept();
  t.same(numbers.idsOf(B), [5, 6]);

  const less = folder('', [disk('live', B, true), text('a')]);
  const removal = numbers.compare(less);
  t.same(removal.gone.toSorted(), [2, 5, 7], 'the folder alone, with all that is below it');
  removal.accept();
  t.same(paths(numbers, less), { '': 1, '/live': 9, '/a': 10 });
});
