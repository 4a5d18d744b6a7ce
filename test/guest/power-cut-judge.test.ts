/** The judge of the power cuts lets pass what may be after a cut, and nothing else. */
import t from 'tap';
import { SECTOR, stamped, stampsOf, UNREADABLE } from './pattern.js';
import { type Found, Judge } from './power-cut-judge.js';

/** What a guest of four sectors says: two writes, a flush, a snapshot, and two later writes. */
const STORY = [
  'w 10 0 2',
  'W 10',
  'f 1',
  'w 11 1 1',
  'F 1',
  'W 11',
  's',
  'w 12 2 1',
  'S a',
  'W 12',
  'w 13 0 1',
  'W 13',
];

interface Snapshot {
  readonly id?: string;
  readonly state?: string;
  readonly stamps: readonly number[];
  readonly changed?: readonly number[];
}

function found(origin: readonly number[], snapshots: readonly Snapshot[], live = origin): Found {
  return {
    origin: Uint32Array.from(origin),
    live: Uint32Array.from(live),
    snapshots: snapshots.map(({ id = 'a', state = 'live', stamps, changed = [0, 4 * SECTOR] }) => ({
      ...{ id, state, why: '', changed },
      stamps: Uint32Array.from(stamps),
    })),
  };
}

function judged(...all: [Found, ...Found[]]): readonly string[] {
  const judge = new Judge(4);
  for (const line of STORY) judge.hear(line);
  const verdicts = all.map(one => judge.judge(one));
  return verdicts.at(-1)!.wrong;
}

const SNAPSHOT = { stamps: [10, 11, 1, 1] };

t.test('what may be', async t => {
  t.same(judged(found([13, 11, 12, 1], [SNAPSHOT])), [], 'everything is there');
  t.same(judged(found([10, 11, 1, 1], [SNAPSHOT])), [], 'only what was made sure of');
  t.same(judged(found([10, 11, 12, 1], [{ stamps: [10, 11, 12, 1] }])), [], 'a write at the moment itself');
});

t.test('what may not be', async t => {
  t.match(judged(found([1, 11, 12, 1], [SNAPSHOT])), [/origin: sector 0 holds write 1;/], 'a flush is lost');
  t.match(judged(found([10, 10, 12, 1], [SNAPSHOT])), [/sector 1 holds write 10/], 'a snapshot is a flush');
  t.match(judged(found([10, 11, 1, 9], [SNAPSHOT])), [/sector 3 holds write 9/], 'nobody wrote that');
  t.match(judged(found([10, 11, 1, 1], [SNAPSHOT], [13, 11, 1, 1])), [/live device: sector 0/]);
  t.match(
    judged(found([13, 11, 1, 1], [{ stamps: [13, 11, 1, 1] }])),
    [/snapshot a: sector 0/],
    'later data',
  );
  t.match(
    judged(found([13, 11, 1, 1], [{ stamps: [UNREADABLE, 11, 1, 1] }])),
    [/an I\/O error/],
    'unreadable',
  );
  t.match(judged(found([10, 11, 1, 1], [])), [/is gone/], 'it was acknowledged');
  t.match(judged(found([10, 11, 1, 1], [SNAPSHOT, { ...SNAPSHOT, id: 'b' }])), [/nobody took it/]);
  t.match(
    judged(found([13, 11, 1, 1], [{ ...SNAPSHOT, changed: [SECTOR, SECTOR] }])),
    [/sector 0 changed/],
    'a change that was not tracked',
  );
  t.match(judged(found([13, 11, 1, 1], [{ stamps: [10, 11, 1, 1], state: 'broken' }])), [
    /broken, and sector 0 reads/,
  ]);
  const other = { stamps: [10, 11, 12, 1] };
  t.match(
    judged(found([10, 11, 12, 1], [SNAPSHOT]), found([10, 11, 12, 1], [other])),
    [/sector 2 holds write 12; allowed: write 1$/],
    'a moment stays what it was',
  );
});

t.test('one that says that it is invalid', async t => {
  const judge = new Judge(4);
  for (const line of STORY) judge.hear(line);
  const stamps = new Array(4).fill(UNREADABLE);
  t.match(judge.judge(found([13, 11, 1, 1], [{ stamps, state: 'broken' }])), {
    wrong: [],
    exact: 0,
    invalid: 1,
  });
});

t.test('a write that is lasting by itself', async t => {
  const judge = new Judge(1);
  for (const line of ['w 10 0 1', 'W 10', 'L 10', 'w 11 0 1']) judge.hear(line);
  t.match(judge.judge(found([1], [])).wrong, [/allowed: write 10, write 11/]);
});

t.test('sectors say whose they are', async t => {
  const bytes = stamped(7, 3, 3);
  bytes.copy(bytes, 2 * SECTOR, 0, SECTOR);
  bytes[SECTOR + 100]! ^= 1;
  t.same([...stampsOf(bytes, 3)], [7, 0xffffffff, 0xfffffffe]);
});
