/**
 * A server in a process of its own, for tests that kill it or run it as somebody else: mounts one disk on argv[2],
 * prints a line of JSON (the facts, and a plain file with the same bytes), and at the end a line with the reason.
 */
import { nativeFuse } from '../../src/mount/native-fuse.js';
import { Workshop } from './fixture.js';

const [, , mountPoint = ''] = process.argv;
const workshop = new Workshop();
const made = workshop.disk([
  ['data', 300_000],
  ['zero', 100_000],
]);
const modified = new Date();
try {
  const mounted = await nativeFuse.mount(
    {
      kind: 'directory',
      name: '',
      modified,
      entries: [{ kind: 'disk', name: 'disk', modified, disk: made.disk }],
    },
    { mountPoint, source: 'served', allowOther: false },
  );
  console.log(JSON.stringify({ facts: mounted.facts, oracle: made.oracle, folder: workshop.folder }));
  console.log(await mounted.ended);
} catch (error) {
  console.log(JSON.stringify({ error: String(error) }));
}
workshop.close();
