/**
 * The catalogue: what it says is what the manifests say, whatever happens to either. A point that was changed, put in, taken
 * away or damaged is listed as its manifest has it, and a damaged catalogue counts for nothing.
 */
import { readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Catalogue, summaryOf, writeCatalogue } from '../../src/image/catalogue.js';
import { stateOf } from '../../src/image/file-state.js';
import { History } from '../../src/image/history.js';
import { MANIFEST_KIND, type Manifest } from '../../src/image/manifest.js';
import { writeSealed } from '../../src/image/sealed.js';
import { keepResult, type Verified } from '../../src/image/verification.js';
import { Lab, scratch } from './history-lab.js';
import { noise } from './peer.js';

const POINTS = 120;

function listed(path: string, catalogue: boolean) {
  const history = new History(path, { catalogue });
  history.close();
  const { troubles } = history;
  // Each fact is asked for: some are read only then.
  const points = history.points.map(point => {
    const { stem, time, moment, manifest, summary } = point;
    return { stem, time, moment, manifest, summary, found: history.found(point) };
  });
  return { points, troubles };
}

const catalogued = (folder: string) => new Catalogue(folder).size;

/** Results of a verification that found the point called `stem` sound, or not. */
function judge(folder: string, stem: string, sound: boolean, time = '2026-03-01T00:00:00.000Z'): void {
  const result: Verified = { time, depth: 'stored', sample: null, sound, bytes: 1, faults: [], defects: [] };
  keepResult({ path: folder }, { stem }, result);
}

t.test('as the manifests', async t => {
  const lab = new Lab(scratch(t), noise(1, 65536));
  const { manifest } = await lab.backup();
  const named = (i: number) => join(lab.history, `vol-${String(i).padStart(4, '0')}.json`);
  const put = (i: number, label: string) => {
    const id = `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`;
    const body: Manifest = { ...manifest, id, label, time: new Date(i * 1e9).toISOString() };
    writeSealed(named(i), `${named(i)}.new`, MANIFEST_KIND, body);
  };
  const stemOf = (i: number) => `vol-${String(i).padStart(4, '0')}`;
  for (let i = 0; i < POINTS; i++) put(i, 'first');
  for (let i = 0; i < 20; i++) judge(lab.history, stemOf(i), i % 3 > 0);
  t.equal(catalogued(lab.history), 0, 'readers write none');
  await lab.backup({ kind: 'full' });
  t.equal(catalogued(lab.history), POINTS + 1, 'the next writer does');
  const same = (what: string) => t.same(listed(lab.history, true), listed(lab.history, false), what);
  same('nothing changed');
  // It is really used: a catalogue that says something else, with the right digest, is seen.
  t.equal(listed(lab.history, true).points.length, POINTS + 2);

  put(3, 'later');
  t.equal(listed(lab.history, true).points.find(({ stem }) => stem === 'vol-0003')?.manifest.label, 'later');
  rmSync(named(4));
  put(POINTS, 'new');
  renameSync(named(5), named(6));
  judge(lab.history, stemOf(8), false, '2026-04-01T00:00:00.000Z');
  judge(lab.history, stemOf(30), false);
  rmSync(join(lab.history, `${stemOf(9)}.verified`));
  same('changed, taken away, put in, one in place of another; results likewise');
  const found = (i: number) => listed(lab.history, true).points.find(({ stem }) => stem === stemOf(i))?.found;
  t.equal(found(8)?.time, '2026-04-01T00:00:00.000Z');
  t.equal(found(30)?.sound, false);
  t.equal(found(9), null);
  t.equal(found(10)?.sound, true);

  const bytes = readFileSync(named(7));
  bytes[bytes.length >> 1]! ^= 4;
  writeFileSync(named(7), bytes);
  utimesSync(named(7), 1, 1);
  t.equal(listed(lab.history, true).troubles.length, 1);
  same('damaged');

  const path = join(lab.history, '.asof-catalogue');
  const whole = readFileSync(path);
  const states = 4096;
  const text = whole.indexOf('"name"');
  for (const at of [0, 20, states, text, whole.length >> 1, whole.length - 1]) {
    const torn = Buffer.from(whole);
    torn[at]! ^= 1;
    writeFileSync(path, torn);
    if (at <= text) t.equal(catalogued(lab.history), 0, `byte ${at} of the catalogue`);
    same(`byte ${at} of the catalogue`);
  }
  writeFileSync(path, whole.subarray(0, whole.length >> 1));
  same('half a catalogue');
  writeFileSync(path, '');
  same('an empty catalogue');
});

t.test('it is used', async t => {
  const lab = new Lab(scratch(t), noise(1, 65536));
  await lab.backup();
  const path = join(lab.history, '.asof-catalogue');
  const history = new History(lab.history);
  history.close();
  const [point] = history.points;
  const { stem, manifest } = point!;
  const name = `${stem}.json`;
  const state = stateOf(statSync(join(lab.history, name)));
  const other: Manifest = { ...manifest, label: 'from the catalogue' };
  judge(lab.history, stem, true);
  const verified = {
    state: stateOf(statSync(join(lab.history, `${stem}.verified`))),
    found: { time: 'then', sound: false },
  };
  writeCatalogue(lab.history, [
    { name, state, summary: summaryOf(other), text: JSON.stringify(other), verified },
  ]);
  const [seen] = listed(lab.history, true).points;
  t.equal(seen?.summary.label, 'from the catalogue');
  t.equal(seen?.manifest.label, 'from the catalogue');
  t.equal(seen?.found?.time, 'then');
  t.equal(listed(lab.history, false).points[0]?.manifest.label, '', 'asof verify reads the manifests');
  const before = new History(lab.history);
  rmSync(path);
  t.equal(before.points[0]?.summary.label, 'from the catalogue');
  t.equal(before.points[0]?.manifest.label, '', 'what the catalogue cannot give any more is read');
  before.close();
  t.equal(listed(lab.history, true).points[0]?.manifest.label, '');
});
