/** Opens an image and asks the doctor, in a process of its own: one line of JSON says what came of it, and the most memory, KiB. */
import { readFileSync } from 'node:fs';
import { AsofError } from '../../src/errors.js';
import { openChain } from '../../src/image/chain.js';
import { check } from '../../src/image/check.js';
import { points } from '../../src/image/points.js';

const memory = () => Number(/^VmHWM:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]);
const before = memory();
let outcome = 'read';
let found = 0;
try {
  const chain = openChain(process.argv[2]!);
  for (const _ of check(chain)) if (++found >= 1e6) break;
  const source = points(chain)[0]!.open();
  for (const _ of source.extents(Math.max(0, source.size - 65536), Math.min(65536, source.size))) break;
  chain.close();
} catch (error) {
  if (!(error instanceof AsofError)) throw error;
  outcome = `${error.code}: ${error.message}`;
}
console.log(JSON.stringify({ outcome, found, grown: memory() - before }));
