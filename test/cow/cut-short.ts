/**
 * A daemon without a mount that is killed before its N-th change of what is on disk, and does one thing: takes a snapshot of
 * a and b with a writer and commands around it, or deletes one. Arguments: the state directory, N, a file that commands
 * write to, and the id of the group that is to be deleted.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const [state = '', count = '', trace = '', group] = process.argv.slice(2);
let left = Number.POSITIVE_INFINITY;
for (const name of ['renameSync', 'unlinkSync'] as const) {
  const real = fs[name] as (...args: unknown[]) => void;
  fs[name] = ((...args: unknown[]) => {
    if (--left === 0) process.kill(process.pid, 'SIGKILL');
    real(...args);
  }) as never;
}
syncBuiltinESMExports();
const { StateFolder } = await import('../../src/cow/state-folder.js');
const { Volumes } = await import('../../src/cow/volumes.js');
const { LOG } = await import('./lab.js');

const volumes = await Volumes.open({ state: StateFolder.open(state), log: LOG, invalid: () => {} });
await volumes.recover();
left = Number(count);
if (group) await volumes.deleteSnapshot(group);
else {
  const line = `printf '%s %s\\n' "$R_CALLBACK_STAGE$ASOF_STEP" "$R_CALLBACK_UID" >> ${trace}`;
  await volumes.snapshot(['a', 'b'], 'cow', {
    commands: {
      beforeBackup: line,
      beforeSnapshot: line,
      afterSnapshot: line,
      afterBackup: line,
      shell: true,
    },
    writers: [{ kind: 'command', settings: { hold: line, release: line, shell: 'yes' } }],
  });
}
process.stdout.write('done\n');
process.exit(0);
