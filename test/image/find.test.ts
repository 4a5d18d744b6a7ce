/**
 * `@` and a time means one point, whoever is asked: the history, the name of a point on the command line, the mount. A day and
 * a minute are meant to their ends. `History.find` took the beginning of the day, and the mount its first second.
 */
import { join } from 'node:path';
import t from 'tap';
import { MountedHistory } from '../../src/histories.js';
import { History } from '../../src/image/history.js';
import type { Directory } from '../../src/mount/tree.js';
import { openPoint } from '../../src/named-point.js';
import { Lab, scratch } from './history-lab.js';
import { noise } from './peer.js';

const TIMES = ['2026-11-20T08:00:00.250Z', '2026-11-20T23:59:59.500Z', '2026-11-21T10:15:30Z'];

/** What is asked, and the number of the point that is meant; -1 where there is none. */
const MEANT: readonly (readonly [string, number])[] = [
  ['2026-11-19', -1],
  ['2026-11-20', 1],
  ['2026-11-20T07:59', -1],
  ['2026-11-20T08:00', 0],
  ['2026-11-20T08-00-00Z', 0],
  ['2026-11-20T08:00:00.249Z', -1],
  ['2026-11-20T08:00:00.250Z', 0],
  ['2026-11-20 23:59', 1],
  ['2026-11-21', 2],
  ['2026-11-21T10:14', 1],
  ['2026-11-21T10:15', 2],
  ['2026-11-21T10:15:29', 1],
  ['2026-11-21T12:15+02:00', 2],
  [String(Date.parse('2026-11-21T10:15:30Z') / 1000), 2],
  ['2099-01-01', 2],
];

t.test('one meaning', async t => {
  const lab = new Lab(scratch(t), noise(1, 65536));
  const ids: string[] = [];
  for (const time of TIMES) ids.push((await lab.backup({}, { time: new Date(time) })).manifest.id);
  const history = new History(lab.history);
  const mounted = new MountedHistory(lab.history, 'error');
  t.teardown(() => {
    history.close();
    mounted.close();
  });
  const [folder] = mounted.tree.entries as Directory[];
  for (const [text, number] of MEANT) {
    const id = ids[number];
    const moment = history.points[number]?.moment;
    const asked = `@${text}`;
    t.equal((folder!.find!(asked) as Directory | undefined)?.name, moment, `${asked} in a mount`);
    if (id === undefined) {
      t.throws(() => history.find(asked), { code: 'POINT_UNKNOWN' }, asked);
      t.throws(() => openPoint(`${lab.history}${asked}`), { code: 'POINT_UNKNOWN' }, asked);
      continue;
    }
    t.equal(history.find(asked).manifest.id, id, asked);
    const point = openPoint(`${lab.history}${asked}`);
    t.equal(point.id, id, `${asked} by name`);
    point.close();
  }
  for (const point of history.points) {
    const { stem, moment, manifest } = point;
    const names = [manifest.id, manifest.id.slice(0, 8), stem, moment, manifest.image.file];
    for (const name of names) t.equal(history.find(name), point, name);
  }
  const file = openPoint(join(lab.history, history.points[1]!.manifest.image.file));
  t.equal(file.id, ids[1]);
  file.close();
});
