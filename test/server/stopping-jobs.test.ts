/**
 * A daemon that is told to stop does not wait for a command that hangs, nor for a writer: it ends them, the job fails and says
 * so, and the after-commands have run.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { asof, eventually, running } from '../cli/asof.js';
import { serve, setting } from './configured.js';

t.setTimeout(240_000);

for (const [name, args] of [
  ['a command', (hang: string) => ['--before-snapshot', hang]],
  ['a writer that prepares', (hang: string) => ['--writer', `command:prepare=${hang},timeout=86400`]],
  [
    'a writer that holds',
    (hang: string) => ['--writer', `command:hold=${hang},timeout=86400`, '--deadline', '86400'],
  ],
  ['the quiet window', (_: string) => ['--quiet', '86400', '--quiet-deadline', '86400']],
] as const) {
  t.test(`while it waits for ${name}`, async t => {
    const { folder, state, config, ask } = setting(t, '');
    writeFileSync(config, readFileSync(config, 'utf8').replace('schedules:\n', ''));
    const pid = join(folder, 'pid');
    const trace = join(folder, 'trace');
    const hang = join(folder, 'hang');
    writeFileSync(hang, `echo $$ > ${pid}\nexec sleep 100000\n`);
    const note = join(folder, 'note');
    writeFileSync(note, `printf '%s %s\\n' "$R_CALLBACK_STAGE" "$ASOF_JOB_FAILED" >> ${trace}\n`);
    const stop = await serve(t, config);
    const asking = asof(
      ...[
        'snapshot',
        'create',
        'a',
        '--state',
        state,
        '--command-timeout',
        '86400',
        '--prepare-deadline',
        '86400',
      ],
      ...args(`/bin/sh ${hang}`),
      ...['--after-snapshot', `/bin/sh ${note}`, '--after-backup', `/bin/sh ${note}`],
    );
    const waits = () =>
      name === 'the quiet window'
        ? ask<{ moments: { transitions: unknown[] }[] }[]>('job', 'list').then(
            ([job]) => (job?.moments[0]?.transitions.length ?? 0) > 1,
          )
        : existsSync(pid) && readFileSync(pid, 'utf8').endsWith('\n');
    await eventually(waits, 'it waits');
    await stop('SIGTERM');
    const { status, stderr } = await asking;
    t.equal(status, 2);
    t.match(stderr, /the daemon/);
    if (existsSync(pid)) t.notOk(running(Number(readFileSync(pid, 'utf8'))), 'it is ended');
    t.same(readFileSync(trace, 'utf8').trim().split('\n'), [
      'AFTER_SNAPSHOT the daemon is being stopped',
      'AFTER_BACKUP the daemon is being stopped',
    ]);
    const again = await serve(t, config);
    t.match(await ask('job', 'list'), [{ state: 'failed', code: 'DAEMON_MISSING', why: /is being stopped/ }]);
    t.same(await ask('snapshot', 'list'), []);
    await again();
  });
}
