/**
 * The catalogue: what it says is what the manifests say, whatever happens to either. A point that was changed, put in, taken
 * away or damaged is listed as its manifest has it, and a damaged catalogue counts for nothing.
 */
import { readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readCatalogue } from '../../src/image/catalogue.js';
import { History } from '../../src/image/history.js';
import { MANIFEST_KIND, type Manifest } from '../../src/image/manifest.js';
import { writeSealed } from '../../src/image/sealed.js';
import { Lab, scratch } from './history-lab.js';
import { noise } from './peer.js';

const POINTS = 120;

function listed(path: string, catalogue: boolean) {
  const history = new History(path, { catalogue });
  history.close();
  const { points, troubles } = history;
  return { points, troubles };
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
  for (let i = 0; i < POINTS; i++) put(i, 'first');
  t.equal(readCatalogue(lab.history).size, 0, 'readers write none');
  await lab.backup({ kind: 'full' });
  t.equal(readCatalogue(lab.history).size, POINTS + 1, 'the next writer does');
  const same = (what: string) => t.same(listed(lab.history, true), listed(lab.history, false), what);
  same('nothing changed');
  // It is really used: a catalogue that says something else, with the right digest, is seen.
  t.equal(listed(lab.history, true).points.length, POINTS + 2);

  put(3, 'later');
  t.equal(listed(lab.history, true).points.find(({ stem }) => stem === 'vol-0003')?.manifest.label, 'later');
  rmSync(named(4));
  put(POINTS, 'new');
  renameSync(named(5), named(6));
  same('changed, taken away, put in, one in place of another');

  const bytes = readFileSync(named(7));
  bytes[bytes.length >> 1]! ^= 4;
  writeFileSync(named(7), bytes);
  utimesSync(named(7), 1, 1);
  t.equal(listed(lab.history, true).troubles.length, 1);
  same('damaged');

  const path = join(lab.history, '.asof-catalogue');
  const whole = readFileSync(path);
  for (const at of [0, 20, whole.length >> 1, whole.length - 1]) {
    const torn = Buffer.from(whole);
    torn[at]! ^= 1;
    writeFileSync(path, torn);
    t.equal(readCatalogue(lab.history).size, 0, `byte ${at} of the catalogue`);
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
  const { writeCatalogue, stateOf } = await import('../../src/image/catalogue.js');
  const { statSync } = await import('node:fs');
  const [point] = history.points;
  const name = `${point!.stem}.json`;
  const manifest = { ...point!.manifest, label: 'from the catalogue' };
  writeCatalogue(lab.history, [{ name, state: stateOf(statSync(join(lab.history, name))), manifest }]);
  t.equal(listed(lab.history, true).points[0]?.manifest.label, 'from the catalogue');
  t.equal(listed(lab.history, false).points[0]?.manifest.label, '', 'asof verify reads the manifests');
  rmSync(path);
  t.equal(listed(lab.history, true).points[0]?.manifest.label, '');
});
