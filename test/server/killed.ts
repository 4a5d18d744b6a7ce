/**
 * A daemon that is killed while a command of a job runs takes the command along, with all that it has started; the next one
 * lets go whoever was told to hold, runs the after-commands, which start again what a before-command has stopped, and says
 * what became of the job.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { asof, eventually, running } from '../cli/asof.js';
import { serve, setting } from './configured.js';

interface Told {
  readonly job: string;
  readonly state: string;
  readonly why: string;
  readonly commands: { readonly stage: string; readonly why: string; readonly attempts: number }[];
  readonly left: unknown[];
}

const OPTIONS = ['--before-backup', '--before-snapshot', '--after-snapshot', '--after-backup'];

/** Commands that write down that they are called; the one of a stage hangs, with a child, when it is called first. */
async function play(t: Test, hangs: string) {
  const { folder, state, config, ask, said } = setting(t, '');
  writeFileSync(config, readFileSync(config, 'utf8').replace('schedules:\n', ''));
  const trace = join(folder, 'trace');
  const pids = join(folder, 'pids');
  const script = join(folder, 'hook');
  writeFileSync(
    script,
    `printf '%s %s %s\\n' "$R_CALLBACK_STAGE$ASOF_STEP" "$R_CALLBACK_UID" "$ASOF_JOB_FAILED" >> ${trace}
test "$R_CALLBACK_STAGE$ASOF_STEP" = ${hangs} || exit 0
test -e ${pids} && exit 0
trap '' TERM
sleep 1000 &
printf '%s %s\\n' $$ $! > ${pids}.new
mv ${pids}.new ${pids}
wait
sleep 1000
`,
  );
  const line = `/bin/sh ${script}`;
  const kill = await serve(t, config);
  const asking = asof(
    ...['snapshot', 'create', 'a', '--state', state],
    ...OPTIONS.flatMap(option => [option, line]),
    ...['--writer', `command:hold=${line},release=${line}`],
  );
  await eventually(() => existsSync(pids), 'it hangs');
  const [running_] = await ask<Told[]>('job', 'list');
  t.match(running_, { state: 'running' });
  const theirs = readFileSync(pids, 'utf8').trim().split(' ').map(Number);
  await kill('SIGKILL');
  t.equal((await asking).status, 2);
  await eventually(() => !theirs.some(running), 'they are gone, though they do not listen');
  const calls = () => readFileSync(trace, 'utf8').trim().split('\n');
  return { ask, said, calls, start: () => serve(t, config), job: running_!.job };
}

/** Killed during `stage`. */
export function killedDuring(stage: string): void {
  t.test(`killed during ${stage}`, async t => {
    const { ask, said, calls, start, job } = await play(t, stage);
    const before = calls();
    const stop = await start();
    let told: Told | undefined;
    await eventually(async () => {
      [told] = await ask<Told[]>('job', 'list');
      return told?.state === 'interrupted';
    }, 'what it owes is done');
    const later = calls().slice(before.length);
    const names = later.map(one => one.split(' ')[0]);
    const held = before.some(one => one.startsWith('hold'));
    const due = stage === 'AFTER_BACKUP' ? ['AFTER_BACKUP'] : ['AFTER_SNAPSHOT', 'AFTER_BACKUP'];
    const owed = held && !stage.startsWith('AFTER');
    t.same(names, [...(owed ? ['release'] : []), ...due]);
    for (const one of later.filter(line => line.startsWith('AFTER')))
      t.match(
        one,
        new RegExp(`^\\w+ ${job} the daemon ended before the job was over$`),
        'its own id, and why',
      );
    t.match(told, { job, state: 'interrupted', why: /the daemon ended/, left: [] });
    for (const { stage: one, why, attempts } of told!.commands) {
      const cut = one === stage;
      if (cut && one.startsWith('BEFORE')) t.match(why, /the daemon ended while it ran/);
      else t.equal(why, '');
      t.equal(attempts, cut && one.startsWith('AFTER') ? 2 : 1);
    }
    const snapshots = await ask<{ marks?: string[] }[]>('snapshot', 'list');
    t.equal(
      snapshots.length,
      stage === 'AFTER_BACKUP' ? 1 : 0,
      'there where it was recorded, else not at all',
    );
    if (snapshots[0]) t.match(snapshots[0].marks, [/the daemon ended before the job was over/]);
    if (stage !== 'BEFORE_SNAPSHOT') return void (await stop());
    const shown = await said('job', 'show', job.slice(0, 8));
    t.match(shown.stdout, /state +interrupted\nwhy +the daemon ended before the job was over\n/);
    t.match(shown.stdout, /AFTER_BACKUP \/bin\/sh .*: succeeded/);
    t.match((await said('job', 'list')).stdout, /^JOB +VOLUMES +STARTED +STATE\n.* interrupted: the daemon/);
    await stop();
    const again = await start();
    t.equal(calls().length, before.length + later.length, 'once');
    await again();
  });
}
