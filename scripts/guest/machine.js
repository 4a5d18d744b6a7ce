/** Starts the guest: QEMU's emulation, bounded in time, its console handed on line by line. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { kernel } from './kernel.js';

/**
 * A host that is busy lets the kernel think that its timer does not work: it is told not to check.
 *
 * `test` and `env` become the environment of the test; `kernelArgs` are further words of the kernel's command line; `args`
 * further ones of QEMU's; `line` gets what the console says. Resolves `ended` to whether it came to its end by itself.
 */
export function boot({ system, test, env = {}, memory, kernelArgs = [], args = [], line, seconds }) {
  const words = Object.entries({ test, ...env }).map(([name, value]) => `${name}=${value}`);
  const guest = spawn(
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
  const die = () => guest.kill('SIGKILL');
  process.on('exit', die);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    die();
  }, seconds * 1000);
  createInterface({ input: guest.stdout }).on('line', text => line(text.replace(/\r$/, '')));
  const ended = once(guest, 'close').then(([, signal]) => {
    clearTimeout(timer);
    process.off('exit', die);
    return { whole: signal === null, late };
  });
  return { kill: die, ended };
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
