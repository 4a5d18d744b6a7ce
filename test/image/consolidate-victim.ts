/** node consolidate-victim.js HISTORY N ID...: takes points away and kills itself before the n-th call that changes anything. */

import { watchCalls } from './backup-victim.js';
import { drop } from './consolidate-lab.js';

const [, , path, count, ...going] = process.argv;
let left = Number(count);
watchCalls(() => {
  if (--left === 0) process.kill(process.pid, 'SIGKILL');
});
await drop(path!, going);
