/** What a hint says can be typed: a shell gets the very words. */
import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import t from 'tap';
import { command, shellQuote } from '../../src/shell.js';

const sh = (script: string) => execFileSync('sh', ['-c', script]).toString();

t.test('any text is one word, the same', t => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), text => {
      const word = text.replaceAll('\0', '');
      return sh(`printf '<%s>' ${shellQuote(word)}`) === `<${word}>`;
    }),
    { numRuns: 60 },
  );
  for (const word of ['', ' ', "it's", '~', '$HOME', '*', '-x', 'a\nb', '"', '\\', '`id`', '#', 'ä'])
    t.equal(sh(`printf '<%s>' ${shellQuote(word)}`), `<${word}>`);
  t.end();
});

t.test('what needs no quotes has none', t => {
  t.equal(command`umount ${'/mnt/a b'} ${'/mnt/c'} ${7}`, "umount '/mnt/a b' /mnt/c 7");
  t.end();
});
