/** The writer `command`: programs of the user's own that make something hold still, and let it go on. */
import { AsofError } from '../../errors.js';
import { runProgram, wordsOf } from '../program.js';
import { secondsOf, type WriterKind } from './writer.js';

export const command: WriterKind = {
  name: 'command',
  settings: {
    prepare: 'a command line that announces the moment; what it writes is still part of it',
    hold: 'a command line that makes it hold still; it holds when the command has ended with 0',
    release: 'a command line that lets it go on; it is run whether `hold` succeeded or not',
    shell: '`yes`: the command lines are given to /bin/sh -c',
    timeout: 'seconds that each may take (60 unless set)',
  },

  async recover(settings, context, _memos, signal) {
    await this.make(settings, context).release(signal, false);
  },

  make(settings, { clock, volumes }) {
    const { prepare = '', hold = '', release = '', shell = 'no' } = settings;
    if (hold.trim() === '' && prepare.trim() === '') {
      throw new AsofError('USAGE', 'the writer command needs `hold` or `prepare`, a command line');
    }
    if (!['yes', 'no'].includes(shell)) {
      throw new AsofError('USAGE', `shell cannot be ${JSON.stringify(shell)}`, 'yes or no');
    }
    const timeoutMs = secondsOf(settings, 'timeout', 60);
    const argv = (line: string) => (shell === 'yes' ? ['/bin/sh', '-c', line] : wordsOf(line));
    for (const line of [prepare, hold, release]) argv(line);
    const run = async (line: string, step: string, signal: AbortSignal) => {
      if (line.trim() === '') return;
      const env = { ASOF_STEP: step, ASOF_VOLUMES: volumes.join(',') };
      const ended = await runProgram(argv(line), { clock, timeoutMs, env, signal });
      if (ended.why) throw new Error(`${line}: ${ended.why} ${ended.output.trim().slice(-200)}`.trim());
    };
    return {
      name: `command ${wordsOf(hold || prepare)[0] ?? ''}`,
      grants: 'application',
      prepare: signal => run(prepare, 'prepare', signal),
      hold: signal => run(hold, 'hold', signal),
      release: signal => run(release, 'release', signal),
    };
  },
};
