import t from 'tap';
import { columns, line, printable } from '../../src/cli/columns.js';

t.test('columns are as wide as their widest cell, and no line ends in a space', async t => {
  t.equal(
    columns(
      ['ID', 'BYTES', 'NAME'],
      ['<', '>', '<'],
      [
        ['a', '12', 'x'],
        ['long', '123456', ''],
      ],
    ),
    'ID     BYTES  NAME\na         12  x\nlong  123456\n',
  );
  t.equal(line(['1', 'b'], ['>', '<'], [3, 0]), '  1  b\n');
});

t.test('what a name from an image cannot do to a terminal', async t => {
  t.equal(printable('\x1b[31mred\x07\n'), '\\x1b[31mred\\x07\\x0a');
  t.equal(printable('a\u202eb'), 'a\\u202eb');
  t.equal(printable('größe 目'), 'größe 目');
});
