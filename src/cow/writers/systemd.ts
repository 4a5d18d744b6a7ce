/**
 * The writer `systemd`: a unit is stopped for the moment and started again, or frozen (systemctl(1), freeze and thaw).
 *
 * A stopped service has written what it had to write. A frozen one stands wherever it stood: nothing new is written, and
 * what it had in its own memory is not there, so that freezing grants nothing beyond what its files are worth by themselves.
 */
import { AsofError } from '../../errors.js';
import { runProgram } from '../program.js';
import { secondsOf, type WriterKind } from './writer.js';

export const systemd: WriterKind = {
  name: 'systemd',
  settings: {
    unit: 'the unit, such as mail.service',
    mode: '`stop` (unless set): stop it and start it again; `freeze`: its processes stand still where they are',
    systemctl: 'the program, where it is not found by its name',
    timeout: 'seconds that each call may take (90 unless set)',
  },

  async recover(settings, { clock }, memos, signal) {
    const { unit = '', systemctl = 'systemctl' } = settings;
    const timeoutMs = secondsOf(settings, 'timeout', 90);
    for (const verb of memos) {
      const ended = await runProgram([systemctl, verb, unit], { clock, timeoutMs, signal });
      if (ended.why) throw new Error(`systemctl ${verb} ${unit}: ${ended.why} ${ended.output}`.trim());
    }
  },

  make(settings, { clock, remember }) {
    const { unit = '', mode = 'stop', systemctl = 'systemctl' } = settings;
    if (!/^[A-Za-z0-9@:_.\\][A-Za-z0-9@:_.\\-]*$/.test(unit)) {
      throw new AsofError(
        'USAGE',
        `unit cannot be ${JSON.stringify(unit)}`,
        'the name of a unit, such as mail.service',
      );
    }
    if (mode !== 'stop' && mode !== 'freeze') {
      throw new AsofError('USAGE', `mode cannot be ${JSON.stringify(mode)}`, 'stop or freeze');
    }
    const timeoutMs = secondsOf(settings, 'timeout', 90);
    const call = async (verb: string, signal?: AbortSignal) => {
      const ended = await runProgram([systemctl, verb, unit], { clock, timeoutMs, signal });
      if (ended.why && !(verb === 'is-active' && ended.signal === null && ended.code !== null)) {
        throw new Error(`systemctl ${verb} ${unit}: ${ended.why} ${ended.output.trim().slice(-200)}`.trim());
      }
      return ended;
    };
    const back = mode === 'stop' ? 'start' : 'thaw';
    /** One that did not run is not started by us. */
    let active = false;
    return {
      name: `systemd ${unit}`,
      grants: mode === 'stop' ? 'application' : 'crash',
      async hold(signal) {
        // Not before: another job, which holds it then, starts it again before it is our turn.
        active = (await call('is-active', signal)).code === 0;
        if (!active) return;
        remember?.(back);
        await call(mode, signal);
      },
      async release(signal) {
        if (!active) return;
        // Somebody who started it in between has written: it did not hold.
        const early = mode === 'stop' && (await call('is-active', signal)).code === 0;
        await call(back, signal);
        if (early) throw new Error(`${unit} was started before the moment was over`);
      },
    };
  },
};
