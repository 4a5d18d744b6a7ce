import { readFileSync } from 'node:fs';
import t from 'tap';
import { COMMANDS } from '../../src/cli/commands.js';
import { FORMATS } from '../../src/image/format.js';
import { asof } from './asof.js';

const root = new URL('../../../', import.meta.url);

for (const { name, summary } of COMMANDS) {
  t.test(`asof ${name} --help`, async t => {
    const { status, stdout, stderr } = await asof(name, '--help');
    const text = stdout.toString();
    t.equal(status, 0);
    t.equal(stderr, '');
    t.match(text, summary);
    t.match(text, new RegExp(`\nExamples?:\n {2}asof ${name} `), 'an example');
    t.match(text, /--json/);
    const other = await asof('help', name);
    t.equal(other.stdout.toString(), text, 'asof help says the same');
  });
}

t.test('docs/cli.md lists the commands in their order', async t => {
  const text = readFileSync(new URL('docs/cli.md', root), 'utf8');
  const named = [...text.matchAll(/^\| `asof (\w+)/gm)].map(match => match[1]);
  t.same(
    named,
    COMMANDS.map(({ name }) => name),
  );
});

t.test('asof alone shows help and fails', async t => {
  const { status, stdout, stderr } = await asof();
  t.equal(status, 1);
  t.equal(stdout.length, 0);
  for (const { name, summary } of COMMANDS) t.match(stderr.replace(/\s+/g, ' '), `${name} ${summary}`);
});

t.test('--version', async t => {
  const { version } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as { version: string };
  const { status, stdout } = await asof('--version');
  t.equal(status, 0);
  t.equal(stdout.toString(), `${version}\n`);
});

t.test('--format names every format', async t => {
  for (const command of ['info', 'mount', 'backup', 'restore']) {
    const { stdout } = await asof(command, '--help');
    const text = stdout.toString().replace(/\s+/g, ' ');
    t.match(text, FORMATS.map(({ name }) => name).join(', '), command);
  }
});
