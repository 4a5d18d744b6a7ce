import t from 'tap';
import { bothSizes, humanSize, parseSize } from '../../src/cli/size.js';

t.test('what is a size', async t => {
  const sizes: readonly (readonly [string, number])[] = [
    ['0', 0],
    ['4096', 4096],
    ['0x1000', 4096],
    ['0XfF', 255],
    ['4K', 4096],
    ['4k', 4096],
    ['4KiB', 4096],
    ['4KB', 4096],
    ['64M', 64 * 2 ** 20],
    ['1G', 2 ** 30],
    ['3T', 3 * 2 ** 40],
    [String(2 ** 53 - 1), 2 ** 53 - 1],
  ];
  for (const [text, bytes] of sizes) {
    t.equal(parseSize(text, '--cache'), bytes, text);
  }
});

t.test('what is none is refused in words', async t => {
  for (const text of ['', ' ', '-1', '1.5G', '1e3', 'NaN', 'Infinity', '12Q', '0x', '0x10K', '1 2', 'K']) {
    t.throws(
      () => parseSize(text, '--offset'),
      { code: 'USAGE', message: /^--offset / },
      JSON.stringify(text),
    );
  }
  for (const text of [String(2 ** 53), '0x20000000000000', '8192T', '999999999999999999999']) {
    t.throws(() => parseSize(text, '--length'), { code: 'USAGE', message: /more than/ }, text);
  }
});

t.test('how sizes are shown', async t => {
  t.equal(humanSize(0), '0 B');
  t.equal(humanSize(1023), '1023 B');
  t.equal(humanSize(1536), '1.5 KiB');
  t.equal(humanSize(2 ** 31), '2 GiB');
  t.equal(humanSize(1023.99 * 2 ** 20), '1023 MiB');
  t.equal(bothSizes(512), '512');
  t.equal(bothSizes(2 ** 20), '1048576 (1 MiB)');
});
