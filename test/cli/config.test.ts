/** The configuration file: what it means, and that whatever is wrong in it is told with its line. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readConfig } from '../../src/cli/config.js';
import { PROVIDERS } from '../../src/cow/providers.js';
import { AsofError } from '../../src/errors.js';
import { scratch } from '../cow/lab.js';

const folder = scratch(t);
const file = join(folder, 'asof.yaml');

t.test('a schedule that backs up', t => {
  const text = readFileSync(new URL('../../../docs/config.md', import.meta.url), 'utf8');
  const example = [...text.matchAll(/```yaml\n([^`]+)```/g)][1]![1]!;
  writeFileSync(file, `groups: {night: [a]}\n${example}`);
  const [schedule] = readConfig(file).schedules!;
  t.strictSame(schedule!.backup, {
    to: '/backup/night',
    kind: 'incremental',
    method: 'auto',
    compress: 'zstd',
    rate: 50 * 2 ** 20,
    allSectors: false,
    excludeSwap: true,
    ignoreReadErrors: false,
    label: 'by night',
    keep: { last: 7, daily: 30, weekly: 12 },
  });
  const refused = (backup: string, more: string, why: RegExp) => {
    writeFileSync(file, `schedules:\n  s:\n    volumes: [a]\n    every: 1h${more}\n    backup: ${backup}\n`);
    t.throws(() => readConfig(file), { code: 'USAGE', message: why });
  };
  refused('{to: x}', '\n    keep: 3', /keep counts snapshots/);
  refused('{kind: full}', '', /line 5: schedules.s.backup has no to/);
  refused('{to: x, compress: "zstd:20"}', '', /line 5: .*compress is "zstd:20"/);
  refused('{to: x, keep: {}}', '', /line 5: .*keep is/);
  refused('{to: x, keep: {sometimes: 1}}', '', /there is no setting "sometimes".*there are last, hourly/);
  writeFileSync(file, 'schedules: {s: {volumes: [a], every: 1h, backup: {to: x}}}\n');
  t.equal(readConfig(file).schedules![0]!.backup!.to, join(folder, 'x'));
  t.end();
});

t.test('the example of docs/config.md, whole', t => {
  const text = readFileSync(new URL('../../../docs/config.md', import.meta.url), 'utf8');
  writeFileSync(file, /```yaml\n([^`]+)```/.exec(text)![1]!);
  const { schedules, ...config } = readConfig(file);
  t.strictSame(config, {
    state: '/var/lib/asof',
    mount: '/mnt/asof',
    allowOther: false,
    driver: 'native',
    logLevel: 'info',
    defaults: {
      values: {
        chunk: 65536,
        durability: 'power',
        onCowError: 'break-snapshot',
        cowTimeout: 30,
        storeLimit: 50 * 2 ** 30,
        stores: '/srv/asof-stores',
        consistency: 'filesystem',
        providers: ['cow', 'reflink'],
        lvmSize: 20 * 2 ** 30,
      },
      where: {
        chunk: `${file}, line 8`,
        durability: `${file}, line 9`,
        onCowError: `${file}, line 10`,
        cowTimeout: `${file}, line 11`,
        storeLimit: `${file}, line 12`,
        stores: `${file}, line 13`,
        consistency: `${file}, line 14`,
        providers: `${file}, line 15`,
        lvmSize: `${file}, line 16`,
      },
    },
    volumes: [
      {
        where: `${file}, line 19`,
        request: { name: 'data', origin: '/dev/vg/data', storeLimit: 100 * 2 ** 30 },
      },
      { where: `${file}, line 23`, request: { name: 'wal', origin: '/dev/vg/wal', store: 'memory' } },
    ],
    groups: new Map([
      ['db', ['data', 'wal']],
      ['night', ['data', 'wal']],
    ]),
    policies: {
      volumes: new Map<string, object>([
        ['data', { providers: ['lvm', 'cow'] }],
        ['wal', {}],
      ]),
      groups: new Map<string, object>([
        ['db', {}],
        ['night', { providers: ['cow'] }],
      ]),
    },
  });
  t.match(schedules, [
    {
      name: 'nightly',
      volumes: ['@night'],
      timing: { text: '30 2 * * *' },
      keep: 7,
      request: {
        consistency: 'application',
        writers: [{ kind: 'postgresql', settings: { host: '/run/postgresql', user: 'postgres' } }],
      },
    },
    { name: 'often', volumes: ['data'], timing: { text: 'every 15m' }, keep: 8, request: { quietMs: 5000 } },
  ]);
  t.end();
});

t.test('JSON, an empty file, relative paths', t => {
  writeFileSync(file, '{"state":"here","volumes":{"a":{"origin":"../b"}}}');
  const config = readConfig(file);
  t.equal(config.state, join(folder, 'here'));
  t.equal(config.volumes[0]!.request.origin, join(folder, '../b'));
  for (const text of ['', '# nothing\n', '{}']) {
    writeFileSync(file, text);
    t.strictSame(
      readConfig(file),
      {
        defaults: { values: {}, where: {} },
        volumes: [],
        groups: new Map(),
        policies: { volumes: new Map(), groups: new Map() },
        schedules: [],
      },
      text,
    );
  }
  t.end();
});

const wrong: readonly [text: string, line: number, message: RegExp][] = [
  ['state: /a\nsurprise: 1\n', 2, /no setting "surprise"; there are state, mount,/],
  ['state: /a\nmount: 7\n', 2, /mount is 7; it must be string/],
  ['# a\n\ndriver: nobody\n', 3, /driver is "nobody"; it must be one of native, fuse-native/],
  [
    'defaults:\n  chunk: 64K\n  durability: never\n',
    3,
    /defaults.durability is "never"; it must be one of power/,
  ],
  ['defaults:\n  chunk: 64X\n', 2, /defaults.chunk is "64X"/],
  ['defaults:\n  storeLimit: 9999999P\n', 2, /more than/],
  ['defaults:\n  cowTimeout: -1\n', 2, /defaults.cowTimeout is -1; it must be >= 0/],
  ['defaults:\n  stores: /a\n  origin: /b\n', 3, /no setting "origin" in defaults; there are chunk/],
  ['volumes:\n  a: {origin: /a}\n  b:\n    store: /c\n', 3, /volumes.b has no origin/],
  ['volumes:\n  a:\n    origin: /a\n    Store: /c\n', 4, /no setting "Store" in volumes.a/],
  ['volumes:\n  a: {origin: /a}\n  "../b": {origin: /b}\n', 3, /the name "..\/b" is not allowed in volumes/],
  ['volumes:\n  a:\n', 2, /volumes.a is null; it must be object/],
  ['groups:\n  a: []\n', 2, /groups.a is \[\]/],
  ['groups:\n  a:\n    providers: [cow]\n', 2, /groups.a has no volumes/],
  ['groups:\n  a:\n    volumes: [x]\n    provider: [cow]\n', 4, /no setting "provider" in groups.a/],
  ['defaults:\n  providers: [cow, tape]\n', 2, /providers.1 is "tape"; it must be one of cow, reflink, lvm/],
  ['volumes:\n  a:\n    origin: /a\n    providers: []\n', 4, /volumes.a.providers is \[\]/],
  ['defaults:\n  lvmSize: 5X\n', 2, /defaults.lvmSize is "5X"/],
  ['groups:\n  a:\n    - x\n    - 7\n', 4, /groups.a.1 is 7; it must be string/],
  ['defaults:\n  quiet: 1\n  chunk: 5000\n', 3, /defaults: a chunk of 5000 bytes is not allowed/],
  ['defaults:\n  providers: [cow, foo]\n', 2, /defaults.providers.1 is "foo"; it must be one of cow/],
  ['schedules:\n  a: {volumes: [x]}\n', 2, /schedules.a: a schedule has either cron or every/],
  [
    'schedules:\n  a:\n    volumes: [x]\n    every: 1m\n    cron: "@daily"\n',
    5,
    /schedules.a: a schedule has either/,
  ],
  [
    'schedules:\n  a:\n    volumes: [x]\n    cron: "61 * * * *"\n',
    4,
    /schedules.a: the time .* the minute "61"/,
  ],
  ['schedules:\n  a:\n    volumes: [x]\n    every: 90s\n', 4, /schedules.a.every is "90s"/],
  ['schedules:\n  a:\n    volumes: [x]\n    every: 0m\n', 4, /from 1m to 366d/],
  ['schedules:\n  a:\n    every: 1m\n    volumes:\n      - x\n      - "@db"\n', 6, /there is no group db/],
  ['schedules:\n  a:\n    every: 1m\n', 2, /schedules.a has no volumes/],
  ['schedules:\n  a:\n    every: 1m\n    volumes: [x]\n    keep: 0\n', 5, /schedules.a.keep is 0/],
  ['schedules:\n  a:\n    every: 1m\n    volumes: [x]\n    when: 0\n', 5, /no setting "when" in schedules.a/],
  [
    'schedules:\n  a:\n    cron: "@daily"\n    timeZone: Mars/Base\n    volumes: [x]\n',
    3,
    /no time zone "Mars/,
  ],
  [
    'schedules:\n  a:\n    every: 1m\n    volumes: [x]\n    writers:\n      - kind: nobody\n',
    5,
    /schedules.a: there is no writer "nobody"/,
  ],
  ['- a\n', 1, /the file is \["a"\]; it must be object/],
  ['state: /a\nstate: /b\n', 2, /unique/],
  ['state: /a\nmount: [\n', 3, /./],
  ['no\n', 1, /the file is "no"/],
  ['{"state":"/a",\n"mount":7}', 2, /mount is 7/],
];
for (const [text, line, message] of wrong) {
  t.test(JSON.stringify(text), t => {
    writeFileSync(file, text);
    try {
      readConfig(file);
      t.fail('it was accepted');
    } catch (error) {
      if (!(error instanceof AsofError)) throw error;
      t.equal(error.code, 'USAGE');
      t.ok(error.message.startsWith(`${file}, line ${line}: `), error.message);
      t.match(error.message, message);
    }
    t.end();
  });
}

t.test('its schema has the providers that there are', t => {
  const schema = readFileSync(new URL('../../../docs/config.schema.json', import.meta.url), 'utf8');
  const names = JSON.parse(schema).definitions.providers.items.enum as string[];
  t.same(
    names,
    PROVIDERS.map(({ name }) => name),
  );
  t.end();
});

t.test('a folder is no file', t => {
  mkdirSync(join(folder, 'there'));
  t.throws(() => readConfig(join(folder, 'there')), { code: 'IO' });
  t.throws(() => readConfig(join(folder, 'nowhere')), { code: 'NOT_FOUND' });
  t.end();
});
