/**
 * Shipped, saved and current options are three things; the schema that users read is the one that counts, and says the same as
 * the code that acts on it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { DEFAULTS } from '../src/cow/definition.js';
import { PROVIDERS } from '../src/cow/providers.js';
import { MOMENT_DEFAULTS } from '../src/cow/quiesce.js';
import { OPTIONS, type OptionKey } from '../src/option-schema.js';
import { type Configured, Options } from '../src/options.js';
import { LOG, scratch } from './cow/lab.js';

const open = (folder: string, configured?: Configured) => new Options(folder, configured, LOG);
const row = (options: Options, key: OptionKey) => {
  const { shipped, saved, current, source } = options.info().options.find(one => one.key === key)!;
  return [shipped, saved, current, source];
};

t.test('as shipped: what the schema says is what the code does', t => {
  const options = open(scratch(t));
  t.match(options.volumeDefaults(), DEFAULTS);
  const { quietDeadlineMs, quietMissed, prepareMs, holdMs, freeze, commandMs } = MOMENT_DEFAULTS;
  t.strictSame(options.moment({}), {
    quietDeadlineMs,
    quietMissed,
    prepareMs,
    holdMs,
    freeze,
    commands: { shell: false, timeoutMs: commandMs },
  });
  t.same(options.policy(), {});
  t.same(
    OPTIONS.find(({ key }) => key === 'providers')!.choices,
    PROVIDERS.map(({ name }) => name),
  );
  for (const { key, description } of OPTIONS) t.ok(description, key);
  t.end();
});

t.test('set, save, reset, restore', t => {
  const folder = scratch(t);
  const options = open(folder);
  options.set({ chunk: 4096, consistency: 'filesystem' });
  t.same(row(options, 'chunk'), [65536, null, 4096, 'set']);
  t.match(options.volumeDefaults(), { chunkSize: 4096 });
  t.match(options.moment({}), { consistency: 'filesystem' });
  t.same(row(open(folder), 'chunk'), [65536, null, 65536, 'shipped'], 'it was not saved');
  options.save();
  t.same(row(options, 'chunk'), [65536, 4096, 4096, 'saved']);
  const again = open(folder);
  t.same(row(again, 'chunk'), [65536, 4096, 4096, 'saved']);
  again.set({ chunk: 8192, quiet: 3 });
  t.same(row(again, 'chunk'), [65536, 4096, 8192, 'set']);
  again.reset(['quiet']);
  t.same(row(again, 'quiet'), [0, null, 0, 'shipped']);
  again.reset();
  t.same(row(again, 'chunk'), [65536, 4096, 4096, 'saved']);
  again.restore(['chunk']);
  t.same(row(again, 'chunk'), [65536, null, 65536, 'shipped']);
  t.same(row(again, 'consistency'), [null, 'filesystem', 'filesystem', 'saved']);
  again.set({ quiet: 3 });
  again.restore();
  t.same(row(again, 'consistency'), [null, null, null, 'shipped']);
  t.same(row(again, 'quiet'), [0, null, 0, 'shipped']);
  t.same(open(folder).info(), again.info());
  t.end();
});

t.test('one saved as shipped stays what the user chose', t => {
  const folder = scratch(t);
  const options = open(folder);
  options.set({ durability: 'power' });
  options.save();
  t.same(row(open(folder), 'durability'), ['power', 'power', 'power', 'saved']);
  t.end();
});

t.test('the configuration counts more than what is saved, less than what is set', t => {
  const folder = scratch(t);
  const configured = { values: { chunk: 16384 }, where: { chunk: 'asof.yaml, line 2' } };
  const options = open(folder, configured);
  t.same(row(options, 'chunk'), [65536, null, 16384, 'configuration']);
  options.set({ chunk: 4096, quiet: 1 });
  options.save();
  t.same(row(options, 'chunk'), [65536, 4096, 4096, 'set'], 'saving changes nothing that counts now');
  t.same(row(options, 'quiet'), [0, 1, 1, 'saved']);
  t.same(row(open(folder, configured), 'chunk'), [65536, 4096, 16384, 'configuration']);
  options.reset();
  t.same(row(options, 'chunk'), [65536, 4096, 16384, 'configuration']);
  options.restore();
  t.same(row(options, 'chunk'), [65536, null, 16384, 'configuration']);
  t.end();
});

t.test('what a request says itself counts most', t => {
  const options = open(scratch(t));
  options.set({
    consistency: 'quiet',
    quiet: 2,
    freeze: false,
    deadline: 7,
    beforeBackup: 'a',
    afterBackup: 'b',
    shell: true,
    commandTimeout: 9,
    providers: ['reflink', 'cow'],
  });
  t.same(options.policy(), { providers: ['reflink', 'cow'] });
  t.match(options.moment({}), {
    consistency: 'quiet',
    quietMs: 2000,
    freeze: false,
    holdMs: 7000,
    commands: { beforeBackup: 'a', afterBackup: 'b', shell: true, timeoutMs: 9000 },
  });
  const asked = options.moment({
    consistency: 'crash',
    quietMs: 0,
    freeze: true,
    holdMs: 1,
    job: 'j',
    commands: { beforeSnapshot: 'c' },
  });
  t.match(asked, { consistency: 'crash', freeze: true, holdMs: 1, job: 'j' });
  t.notOk('quietMs' in asked);
  t.strictSame(asked.commands, { beforeSnapshot: 'c', timeoutMs: 9000 }, 'commands are of one hand');
  t.end();
});

t.test('what is not allowed changes nothing', t => {
  const options = open(scratch(t));
  const wrong: readonly [Record<string, unknown>, RegExp][] = [
    [{ surprise: 1 }, /no option "surprise"/],
    [{ constructor: 1 }, /no option/],
    [{ durability: 'never' }, /durability is "never"; it must be one of power, process/],
    [{ quiet: -1 }, /quiet is -1; it must be >= 0/],
    [{ deadline: 0 }, /deadline is 0; it must be > 0/],
    [{ deadline: '3' }, /deadline is "3"; it must be number/],
    [{ providers: ['x'] }, /one of cow/],
    [{ providers: [] }, /providers is \[\]/],
    [{ chunk: '64K' }, /a number of bytes/],
    [{ chunk: 5000 }, /a chunk of 5000 bytes/],
    [{ storeLimit: 1000 }, /too small/],
    [{ quiet: 5, stores: 'here' }, /an absolute path/],
  ];
  for (const [values, message] of wrong) t.throws(() => options.set(values), { code: 'USAGE', message });
  t.throws(() => options.reset(['x']), { code: 'USAGE', hint: /there are chunk, / });
  t.ok(options.info().options.every(({ source }) => source === 'shipped'));
  t.end();
});

t.test('a damaged file is told, and replaced by the next save; what is unknown in it is left out', t => {
  const folder = scratch(t);
  const file = join(folder, 'options.json');
  const options = open(folder);
  options.set({ quiet: 4 });
  options.save();
  const text = readFileSync(file, 'utf8');
  writeFileSync(file, text.replace('4', '5'));
  const damaged = open(folder);
  t.match(damaged.info().trouble, /checksum/);
  t.same(row(damaged, 'quiet'), [0, null, 0, 'shipped']);
  damaged.set({ quiet: 6 });
  damaged.save();
  t.equal(damaged.info().trouble, '');
  t.same(row(open(folder), 'quiet'), [0, 6, 6, 'saved']);
  t.end();
});
