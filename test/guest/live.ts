/**
 * Serves a volume in the guest, on argv[2], with its file in the folder argv[3]. For each line of input it takes a
 * snapshot and shows it (1, 2, …); at the end of input it unmounts. It says what it has done.
 */
import { createInterface } from 'node:readline';
import { nativeFuse } from '../../src/mount/native-fuse.js';
import type { Entry } from '../../src/mount/tree.js';
import { makeVolume, WHEN } from '../mount/volume.js';

const [, , mountPoint = '', folder = ''] = process.argv;
const made = await makeVolume({ folder }, 16 * 2 ** 20);
const entries: Entry[] = [{ kind: 'disk', name: 'live', modified: WHEN, disk: made.live, writable: true }];
const tree = () => ({ kind: 'directory', name: '', modified: WHEN, entries: [...entries] }) as const;
const mounted = await nativeFuse.mount(tree(), { mountPoint, source: 'volume', allowOther: false });
console.log(JSON.stringify(mounted.facts));
for await (const _ of createInterface(process.stdin)) {
  const name = String(entries.length);
  entries.push({ kind: 'disk', name, modified: WHEN, disk: await made.snapshot() });
  await mounted.update(tree());
  console.log(`snapshot ${name}`);
}
await mounted.unmount();
await made.close();
console.log('unmounted');
