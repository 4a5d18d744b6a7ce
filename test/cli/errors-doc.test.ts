import { readFileSync } from 'node:fs';
import t from 'tap';
import { AsofError, ERROR_CODES } from '../../src/errors.js';

t.test('docs/errors.md has every code, with its status', async t => {
  const text = readFileSync(new URL('../../../docs/errors.md', import.meta.url), 'utf8');
  const rows = [...text.matchAll(/^\| `([A-Z_]+)` \| (\d+) \| ([^|]+) \| ([^|]+) \|$/gm)];
  const told = new Map(rows.map(([, code, status]) => [code!, Number(status)]));
  t.equal(told.size, rows.length, 'no code stands twice');
  t.same([...told.keys()].sort(), [...ERROR_CODES].sort());
  for (const code of ERROR_CODES) t.equal(told.get(code), new AsofError(code, '').exitCode, code);
});
