/** What cannot even be started is a program that failed, in words: the job that it belongs to goes its way. */
import t from 'tap';
import { SYSTEM_CLOCK } from '../../src/cow/clock.js';
import { runProgram } from '../../src/cow/program.js';

for (const [what, argv] of [
  ['a word that no word can be', ['true', 'a\0b']],
  ['no program', ['']],
  ['no words', []],
  ['words that are too many', ['true', 'x'.repeat(8 * 2 ** 20)]],
  ['a program that is not there', ['/nowhere/program']],
] as const) {
  t.test(what, async t => {
    const ended = await runProgram(argv, { clock: SYSTEM_CLOCK, timeoutMs: 60_000 });
    t.match(ended, { code: null, signal: null, why: /does not start/, output: '' });
  });
}
