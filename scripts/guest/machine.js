/** Starts the guest: QEMU's emulation, bounded in time, its console handed on line by line. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { kernel } from './kernel.js';
import { BEGUN } from './system.js';

/** Boots before it is given up. */
const BOOTS = 5;

/**
 * A host that is busy lets the kernel think that its timer does not work: it is told not to check. And the emulation of two
 * processors that change their code is not perfect: a kernel that dies before init is booted again.
 *
 * `test` and `env` become the environment of the test; `kernelArgs` are further words of the kernel's command line; `args`
 * further ones of QEMU's; `line` gets what the console says. Resolves `ended` to whether it came to its end by itself.
 */
export function boot({ system, test, env = {}, memory, kernelArgs = [], args = [], line, seconds }) {
  const words = Object.entries({ test, ...env }).map(([name, value]) => `${name}=${value}`);
  const start = () =>
    spawn(
      'qemu-system-x86_64',
      [
        ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', String(memory)],
        ...['-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
        ...['-kernel', kernel(), '-initrd', system.initrd],
        // The first device is the guest's first disk.
        ...[
          '-blockdev',
          `driver=raw,node-name=system,read-only=on,file.driver=file,file.filename=${system.disk}`,
        ],
        ...['-device', 'virtio-blk-pci,drive=system'],
        ...[
          '-append',
          ['console=ttyS0 quiet panic=-1 mitigations=off no_timer_check', ...kernelArgs, ...words].join(' '),
        ],
        ...args,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
  let guest;
  let killed = false;
  let late = false;
  const die = () => {
    killed = true;
    guest.kill('SIGKILL');
  };
  const run = async () => {
    process.on('exit', die);
    const timer = setTimeout(() => {
      late = true;
      die();
    }, seconds * 1000);
    for (let left = BOOTS; ; ) {
      let begun = false;
      guest = start();
      createInterface({ input: guest.stdout }).on('line', text => {
        begun ||= text.startsWith(BEGUN);
        line(text.replace(/\r$/, ''));
      });
      const [, signal] = await once(guest, 'close');
      if (!begun && !killed && signal === null && --left > 0) {
        line('# the kernel did not come up: once more');
        continue;
      }
      clearTimeout(timer);
      process.off('exit', die);
      return { whole: signal === null, late };
    }
  };
  return { kill: die, ended: run() };
}

/** Boots a guest whose script prints TAP, and counts. Resolves to whether all is well. */
export async function bootForTap(options) {
  const lines = [];
  const { ended } = boot({
    ...options,
    line: text => {
      lines.push(text);
      console.log(text);
    },
  });
  await ended;
  const passed = lines.filter(line => line.startsWith('ok ')).length;
  const failed = lines.filter(line => line.startsWith('not ok ')).length;
  const whole = lines.includes(`1..${passed + failed}`);
  if (!whole) console.log('# the guest did not come to its end');
  console.log(`${passed} passed, ${failed} failed`);
  return whole && failed === 0 && passed > 0;
}
