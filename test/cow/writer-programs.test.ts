/** The writers `systemd` and `command`, with programs that write down how they were called. */
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import { makeWriter, writerNamed } from '../../src/cow/writers/table.js';
import { eventually } from '../cli/asof.js';
import { scratch } from './lab.js';

const never = new AbortController().signal;

const context = { clock: SYSTEM_CLOCK, volumes: ['a', 'b'], note: () => {} };

function make(kind: string, settings: Record<string, string>, remember = (_memo: string) => {}) {
  return makeWriter({ kind, settings }, { ...context, remember });
}

/** A systemctl that knows one unit, and fails at a verb. */
function systemctl(t: Test, active: boolean, fails = 'nothing') {
  const folder = scratch(t);
  const [program, log, state] = ['systemctl', 'log', 'state'].map(name => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(state, active ? 'active' : 'inactive');
  writeFileSync(log, '');
  writeFileSync(
    program,
    `#!/bin/sh
echo "$@" >> ${log}
test "$1" = ${fails} && { echo "cannot $1"; exit 1; }
case $1 in
  is-active) test "$(cat ${state})" = active || exit 3 ;;
  stop) echo inactive > ${state} ;;
  start) echo active > ${state} ;;
esac
`,
  );
  chmodSync(program, 0o755);
  return {
    program,
    state,
    calls: () => readFileSync(log, 'utf8').trim().split('\n'),
    is: () => readFileSync(state, 'utf8').trim(),
  };
}

t.test('a unit is stopped, and started again', async t => {
  const fake = systemctl(t, true);
  const one = make('systemd', { unit: 'mail.service', systemctl: fake.program });
  t.equal(one.grants, 'application');
  await one.hold(never);
  t.equal(fake.is(), 'inactive');
  await one.release(never, true);
  t.equal(fake.is(), 'active');
  t.same(fake.calls(), [
    'is-active mail.service',
    'stop mail.service',
    'is-active mail.service',
    'start mail.service',
  ]);
});

t.test('one that did not run is not started', async t => {
  const fake = systemctl(t, false);
  const one = make('systemd', { unit: 'mail.service', systemctl: fake.program });
  await one.hold(never);
  await one.release(never, true);
  t.same(fake.calls(), ['is-active mail.service']);
});

t.test('one that does not stop is started all the same', async t => {
  const fake = systemctl(t, true, 'stop');
  const one = make('systemd', { unit: 'mail.service', systemctl: fake.program });
  await t.rejects(one.hold(never), /cannot stop/);
  await one.release(never, false).catch(() => undefined);
  t.equal(fake.calls().at(-1), 'start mail.service');
});

t.test('one that somebody started in between did not hold', async t => {
  const fake = systemctl(t, true);
  const one = make('systemd', { unit: 'mail.service', systemctl: fake.program });
  await one.hold(never);
  writeFileSync(fake.state, 'active');
  await t.rejects(one.release(never, true), /before the moment was over/);
});

t.test('a unit is frozen, which vouches for nothing, and thawed', async t => {
  const fake = systemctl(t, true);
  const one = make('systemd', { unit: 'mail.service', mode: 'freeze', systemctl: fake.program });
  t.equal(one.grants, 'crash');
  await one.hold(never);
  await one.release(never, true);
  t.same(fake.calls(), ['is-active mail.service', 'freeze mail.service', 'thaw mail.service']);
});

for (const [mode, back] of [
  ['stop', 'start'],
  ['freeze', 'thaw'],
] as const) {
  t.test(`the daemon is killed while a unit is held by ${mode}`, async t => {
    const fake = systemctl(t, true);
    const settings = { unit: 'mail.service', mode, systemctl: fake.program };
    const memos: string[] = [];
    await make('systemd', settings, memo => {
      t.notOk(fake.calls().includes(`${mode} mail.service`), 'it is written down before');
      memos.push(memo);
    }).hold(never);
    await writerNamed('systemd')!.recover!(settings, context, memos, never);
    t.equal(fake.calls().at(-1), `${back} mail.service`);
  });
}

t.test('the daemon is killed, and the unit did not run: nobody starts it', async t => {
  const fake = systemctl(t, false);
  const settings = { unit: 'mail.service', systemctl: fake.program };
  const memos: string[] = [];
  await make('systemd', settings, memo => void memos.push(memo)).hold(never);
  await writerNamed('systemd')!.recover!(settings, context, memos, never);
  t.same(fake.calls(), ['is-active mail.service']);
});

t.test('names that are no units, modes that are none', async t => {
  for (const unit of ['', '--root=/x', 'a b', '$(x)']) {
    t.throws(() => make('systemd', { unit }), { code: 'USAGE' }, unit);
  }
  t.throws(() => make('systemd', { unit: 'a.service', mode: 'kill' }), { code: 'USAGE' });
});

t.test('commands hold, and release', async t => {
  const log = join(scratch(t), 'log');
  const line = `printf '%s %s\\n' "$ASOF_STEP" "$ASOF_VOLUMES" >> ${log}`;
  const one = make('command', { prepare: line, hold: line, release: line, shell: 'yes' });
  await one.prepare!(never);
  await one.hold(never);
  await one.release(never, true);
  t.same(readFileSync(log, 'utf8').trim().split('\n'), ['prepare a,b', 'hold a,b', 'release a,b']);
});

t.test('a command that fails, and one that hangs', async t => {
  const failing = make('command', { hold: 'echo no; exit 7', release: 'true', shell: 'yes' });
  await failing.prepare!(never);
  await t.rejects(failing.hold(never), /ended with 7 no/);
  await failing.release(never, false);
  const begun = join(scratch(t), 'begun');
  const hanging = make('command', { hold: `touch ${begun}; sleep 1000`, shell: 'yes' });
  const control = new AbortController();
  const holding = hanging.hold(control.signal);
  await eventually(() => existsSync(begun), 'it hangs');
  control.abort(new Error('too late'));
  await t.rejects(holding, /was ended/);
  t.throws(() => make('command', {}), { code: 'USAGE' });
  t.throws(() => make('command', { hold: 'x', timeout: '0' }), { code: 'USAGE' });
});
