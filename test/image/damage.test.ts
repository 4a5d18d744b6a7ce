/**
 * Seeded damage to every format of blocks: zero wrong bytes, against the content from which the images were made.
 */
import { writeFileSync } from 'node:fs';
import t from 'tap';
import { damaged, judge, look, type Subject, tally } from './damage.js';
import { folder } from './peer.js';
import { subjects } from './subjects.js';

/** Of small files, and of large ones. */
const MANY = 240;
const FEW = 50;

const all: Subject[] = subjects(folder(t));

for (const subject of all) {
  t.test(subject.name, async t => {
    const sound = tally();
    judge(subject, subject.bytes, 'sound', sound);
    t.same({ ...sound, cases: 1 }, { cases: 1, refused: 0, bad: 0, whole: 1, faults: [] });
    const cases = subject.bytes.length > 2 ** 20 ? FEW : MANY;
    const found = tally();
    for (let seed = 1; seed <= cases; seed++) {
      const change = damaged(subject, seed);
      if (change) judge(subject, change.bytes, change.label, found);
    }
    t.same(found.faults, []);
    t.comment(JSON.stringify(found));
    t.ok(found.refused + found.bad > cases / 10, 'damage was noticed');
  });

  t.test(`${subject.name}: a flip of data is what the image holds`, async t => {
    const bytes = Buffer.from(subject.bytes);
    const needle = subject.content.subarray(0, 512);
    const at = bytes.indexOf(needle);
    t.ok(at >= 0, 'the first sector is found in the file');
    bytes[at + 100]! ^= 0x10;
    writeFileSync(subject.path, bytes);
    const seen = look(subject.path);
    if (typeof seen === 'string') throw new Error(seen);
    const wanted = Buffer.from(subject.content);
    wanted[100]! ^= 0x10;
    t.ok(seen.bytes.equals(wanted), 'that byte alone is changed');
  });
}
