/** docs/consistency.md lists the writers and their settings. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { CONSISTENCIES } from '../../src/cow/consistency.js';
import { WRITERS } from '../../src/cow/writers/table.js';

const text = readFileSync(new URL('../../../docs/consistency.md', import.meta.url), 'utf8');

t.test('every writer, with its settings', async t => {
  for (const { name, settings } of WRITERS) {
    const row = text
      .split('\n')
      .find(line => line.startsWith('| `') && line.split('|')[1]!.includes(`\`${name}\``));
    t.ok(row, name);
    const told = [
      ...row!
        .split('|')[3]!
        .replace(/\([^)]*\)/g, '')
        .matchAll(/`([^`]+)`/g),
    ].map(match => match[1]);
    t.same(told.sort(), Object.keys(settings).sort(), name);
  }
});

t.test('every class', async t => {
  const told = [...text.matchAll(/^\| `(\w+)` \| [^|]+ \| [^|]+ \|$/gm)].map(match => match[1]);
  t.same(
    told.filter(one => CONSISTENCIES.some(known => known === one)),
    [...CONSISTENCIES].reverse(),
  );
});
