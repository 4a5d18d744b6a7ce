/** The configuration file: what it means, and that whatever is wrong in it is told with its line. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readConfig } from '../../src/cli/config.js';
import { AsofError } from '../../src/errors.js';
import { scratch } from '../cow/lab.js';

const folder = scratch(t);
const file = join(folder, 'asof.yaml');

t.test('the example of docs/config.md, whole', t => {
  const text = readFileSync(new URL('../../../docs/config.md', import.meta.url), 'utf8');
  writeFileSync(file, /```yaml\n([^`]+)```/.exec(text)![1]!);
  t.strictSame(readConfig(file), {
    state: '/var/lib/asof',
    mount: '/mnt/asof',
    allowOther: false,
    driver: 'native',
    logLevel: 'info',
    defaults: {
      durability: 'power',
      onCowError: 'break-snapshot',
      chunkSize: 65536,
      storeLimit: 50 * 2 ** 30,
      cowTimeoutMs: 30_000,
      stores: '/srv/asof-stores',
    },
    volumes: [
      {
        where: `${file}, line 16`,
        request: { name: 'data', origin: '/dev/vg/data', storeLimit: 100 * 2 ** 30 },
      },
      { where: `${file}, line 19`, request: { name: 'wal', origin: '/dev/vg/wal', store: 'memory' } },
    ],
    groups: new Map([['db', ['data', 'wal']]]),
  });
  t.end();
});

t.test('JSON, an empty file, relative paths', t => {
  writeFileSync(file, '{"state":"here","volumes":{"a":{"origin":"../b"}}}');
  const config = readConfig(file);
  t.equal(config.state, join(folder, 'here'));
  t.equal(config.volumes[0]!.request.origin, join(folder, '../b'));
  for (const text of ['', '# nothing\n', '{}']) {
    writeFileSync(file, text);
    t.strictSame(readConfig(file), { defaults: {}, volumes: [], groups: new Map() }, text);
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
  ['groups:\n  a:\n    - x\n    - 7\n', 4, /groups.a.1 is 7; it must be string/],
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

t.test('a folder is no file', t => {
  mkdirSync(join(folder, 'there'));
  t.throws(() => readConfig(join(folder, 'there')), { code: 'IO' });
  t.throws(() => readConfig(join(folder, 'nowhere')), { code: 'NOT_FOUND' });
  t.end();
});
